"""Dropout masks from a hash of each element's index.

An element is kept where a hash of its index and of the key is at least rate * 2^32: a multiply-and-shift finalizer
like MurmurHash3's, on 32-bit numbers, with 64 bits of the key mixed in at two places. It costs a few instructions per
element where 'reference' costs about a hundred, fuses with the operations around it, and the backward pass recomputes
the mask instead of keeping it. It is not cryptographic; its measured statistics are those of independent draws:
the rate exact to 2^-32, variances of sums over rows and over columns, and no correlation between neighbours or between
keys (tests/kernels/ops/test_dropout.py). Beyond 2^32 elements masks repeat.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.declaration import Evidence, Implementation, Spec, Wishes
from ryot_jax.kernels.operands import OwnGradient
from ryot_jax.kernels.probes import rows_of_a_device, vanished
from ryot_jax.runtime.hlo import Array, Program


def _fold(words: jax.Array, start: int) -> jax.Array:
    """Fold the words of a key into one, by MurmurHash3's finalizer on each word and the result so far."""
    h = jnp.uint32(start)
    for i in range(words.shape[0]):
        h = (h ^ words[i]) * jnp.uint32(0x9E3779B1)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return h


def _keep(rate: float, words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The mask of kept elements, a function of their index in row-major order."""
    # The index is a sum over axes, not a reshaped arange, so that each device computes the indices of its own shard.
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    # Two words of the key at two places: with one at the start only, two keys' masks would be permutations.
    h = (index ^ _fold(words, 0x243F6A88)) * jnp.uint32(0x9E3779B1)
    h = (h ^ (h >> 15) ^ _fold(words, 0xB7E15162)) * jnp.uint32(0x85EBCA77)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE3D)
    return (h ^ (h >> 16)) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


@functools.partial(OwnGradient, nondiff_argnums=(0,))
def _masked(rate: float, words: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(_keep(rate, words, x.shape), x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros_like(x))


def _masked_forward(rate: float, words: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _masked(rate, words, x), words


def _masked_backward(rate: float, words: jax.Array, dy: jax.Array) -> tuple[None, jax.Array]:
    return None, _masked(rate, words, dy)


_masked.defvjp(_masked_forward, _masked_backward)


def _hash(rate: float, key: jax.Array, x: jax.Array) -> jax.Array:
    return _masked(rate, jax.random.key_data(key), x)


def _refusal(spec: Spec) -> str | None:
    return None if spec.dropout > 0 else "the model has no dropout"


def _drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    # Different masks move one seed's loss by more than the kernels may (0.05 nats in the smoke run with dropout 0.1).
    return "its masks are others than the baseline's, so one pair of arms would compare two seeds"


def _no_random_bits(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence that no arrays of random integers are made, which the baseline draws, one per element."""
    rows = rows_of_a_device(spec)
    shape = f"u32[{rows},{spec.d_model}] (random bits)"

    def is_bits(array: Array) -> bool:
        return array.dtype == "u32" and array.size == rows * spec.d_model

    return vanished(program, baseline, is_bits, shape, shared=True)


IMPLEMENTATION = Implementation(
    function=_hash,
    equivalence="statistical",
    probe=_no_random_bits,
    refusal=_refusal,
    drawback=_drawback,
    where="models with dropout; never by `auto`",
    is_compiled_by_xla=True,
)
