"""Dropout: zeros in random places."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.operands import choose


def dropout(x: jax.Array, rate: float, key: jax.Array | None, *, implementation: str = "reference") -> jax.Array:
    """Zero each element with probability `rate` and scale the rest by 1/(1-rate) (arXiv:1207.0580).

    'hash' keeps an element where a hash of its index and of the key is at least rate * 2^32: a multiply-and-shift
    finalizer like MurmurHash3's, on 32-bit numbers, with 64 bits of the key mixed in at two places. It costs a few
    instructions an element where 'reference' costs some hundred, fuses with what surrounds it, and the backward
    pass makes the mask again instead of keeping it. It is no cryptographic generator; its measured statistics are
    those of independent draws: the rate exact to 2^-32, variances of sums over rows and over columns, and no
    correlation between neighbours or between keys (tests/kernels/ops/test_dropout.py). Beyond
    2^32 elements masks repeat.

    Args:
      x: any shape, any float dtype.
      rate: probability in [0, 1).
      key: a JAX random key; None: the identity.
      implementation: 'reference' (`jax.random.bernoulli`) or 'hash'.

    Returns:
      Shape and dtype of x. The same key gives the same mask.

    Raises:
      ValueError: the rate is not a probability below one, or the implementation is not known.
      TypeError: x is not of a float dtype.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"need a rate in [0, 1); got {rate}")
    apply = choose(_IMPLEMENTATIONS, implementation, x)
    return x if key is None or rate == 0 else apply(float(rate), key, x)


def _reference(rate: float, key: jax.Array, x: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def _fold(words: jax.Array, start: int) -> jax.Array:
    """The words of a key in one: MurmurHash3's finalizer on each word and what came before it."""
    h = jnp.uint32(start)
    for i in range(words.shape[0]):
        h = (h ^ words[i]) * jnp.uint32(0x9E3779B1)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return h


def _keep(rate: float, words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Which elements stay; a function of their index in row-major order."""
    # Summed over the axes, not an arange that is reshaped: each device computes the indices of its own part.
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    # Two words of the key at two places: with one in front alone, two keys' masks would be permutations of each other.
    h = (index ^ _fold(words, 0x243F6A88)) * jnp.uint32(0x9E3779B1)
    h = (h ^ (h >> 15) ^ _fold(words, 0xB7E15162)) * jnp.uint32(0x85EBCA77)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE3D)
    return (h ^ (h >> 16)) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _masked(rate: float, words: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(_keep(rate, words, x.shape), x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros_like(x))


def _masked_forward(rate: float, words: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _masked(rate, words, x), words


def _masked_backward(rate: float, words: jax.Array, dy: jax.Array) -> tuple[None, jax.Array]:
    return None, _masked(rate, words, dy)


_masked.defvjp(_masked_forward, _masked_backward)


def _hash(rate: float, key: jax.Array, x: jax.Array) -> jax.Array:
    return _masked(rate, jax.random.key_data(key), x)


_IMPLEMENTATIONS: dict[str, Callable[[float, jax.Array, jax.Array], jax.Array]] = {
    "reference": _reference,
    "hash": _hash,
}
