"""One step of decoding with a pre-norm transformer: all layers in one call of the C++ kernels.

A step of a small model is a hundred operations of a microsecond each, and what XLA takes to start them is most of its
time; here the step is one operation. What comes out for a token depends on it and on the tokens before it alone, to
the bit: not on how many tokens the step takes, nor on the other sequences. So tokens that are checked several at once
come out as they would one at a time, which speculative decoding is built on.

There is no reference here: what a step computes is said by the model that the weights belong to.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import as_ffi_operand
from ryot_jax.kernels.ops.dense._layer import activation_code

# Keys are read in whole vectors, so a cache's capacity is a multiple of the floats in one. The library does not tell
# how many: these are those of 512 bits, the widest vectors of x86-64, and all narrower ones divide them.
_LANES = 16


class LayerWeights(NamedTuple):
    """Weights of one layer, float32: x + attention(norm(x)), then x + mlp(norm(x)). Absent biases are None.

    `qkv_DE` maps to queries, keys and values, each head after head: E = 3 D. `up_DF` maps to the hidden features, for
    swiglu to the gate's and then the value's.
    """

    attention_scale_D: jax.Array
    attention_bias_D: jax.Array | None
    qkv_DE: jax.Array
    qkv_bias_E: jax.Array | None
    out_DD: jax.Array
    out_bias_D: jax.Array | None
    mlp_scale_D: jax.Array
    mlp_bias_D: jax.Array | None
    up_DF: jax.Array
    up_bias_F: jax.Array | None
    down_FD: jax.Array
    down_bias_D: jax.Array | None


class StepWeights(NamedTuple):
    """Weights of a model, float32.

    A token's row of `table_VD` and its position's row of `positions_PD` are added up; queries and keys are turned by
    the angles in `rotations_PK`: the cosines of a position's K / 2 pairs, then the sines. Either of the two may be
    None. Products of the last features with the rows of `head_VD` are the logits.
    """

    table_VD: jax.Array
    positions_PD: jax.Array | None
    rotations_PK: jax.Array | None
    final_scale_D: jax.Array
    final_bias_D: jax.Array | None
    head_VD: jax.Array
    layers: tuple[LayerWeights, ...]


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What the arrays do not say. `mlp` is 'gelu', 'relu2' or 'swiglu'; without `centre` norms are RMS norms."""

    n_heads: int
    d_ff: int
    mlp: str = "gelu"
    centre: bool = True
    epsilon: float = 1e-5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedWeights:
    """Weights as the kernel reads them, for products in `dtype` ('float32' or 'bfloat16'): a pytree of arrays."""

    arrays: list[jax.Array]
    spec: StepSpec = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})
    n_layers: int = dataclasses.field(metadata={"static": True})

    @property
    def table_VD(self) -> jax.Array:
        """The embeddings."""
        return self.arrays[0]


class StepCache(NamedTuple):
    """Keys and values of all layers in words of 32 bits, each of g = 1 float32 or g = 2 bfloat16s.

    A word holds neighbouring numbers of a key, or values of neighbouring positions. What lies beyond a sequence's
    length is never read.
    """

    k_LBHKT: jax.Array  # uint32[L, B, H, K / g, T]
    v_LBHTK: jax.Array  # uint32[L, B, H, T / g, K]


def pack_weights(weights: StepWeights, spec: StepSpec, dtype: str) -> PackedWeights:
    """The weights in the layout of the kernel: 2.3 MB in bfloat16 for 1.1 million of them, and the table in float32.

    Raises:
      NotImplementedError: the C++ kernels cannot run here, or not in this dtype.
    """
    arrays = [
        weights.table_VD,
        as_ffi_operand(weights.positions_PD),
        as_ffi_operand(weights.rotations_PK),
        weights.final_scale_D,
        as_ffi_operand(weights.final_bias_D),
        _packed_matrix(weights.head_VD, dtype, transposed=True),
    ]
    for layer in weights.layers:
        arrays += [
            as_ffi_operand(array) if array is None or array.ndim == 1 else _packed_matrix(array, dtype)
            for array in layer
        ]
    return PackedWeights(arrays, spec, dtype, len(weights.layers))


def empty_step_cache(weights: PackedWeights, batch_size: int, capacity: int) -> StepCache:
    """A cache that holds nothing, with room for `capacity` positions or a few more."""
    H, T = weights.spec.n_heads, -(-capacity // _LANES) * _LANES
    K, (_, group) = weights.table_VD.shape[1] // H, cpu.packing(weights.dtype)
    shape = (weights.n_layers, batch_size, H)
    return StepCache(jnp.zeros((*shape, -(-K // group), T), jnp.uint32), jnp.zeros((*shape, T // group, K), jnp.uint32))


def decode_step(
    weights: PackedWeights,
    tokens_BS: jax.Array,
    length_B: jax.Array,
    count_B: jax.Array,
    cache: StepCache,
    *,
    with_logits: bool = False,
    last_only: bool = False,
) -> tuple[jax.Array, jax.Array | None, StepCache]:
    """The tokens that follow each of the first `count_B` of S new tokens, and the cache that holds these too.

    Args:
      weights: see `pack_weights`.
      tokens_BS: int32 ids; those beyond a sequence's count are not looked at.
      length_B: int32, positions that the cache holds of each sequence; those behind are written over.
      count_B: int32, 0 to S.
      cache: updated in place where it is of no more use, as the carry of a loop.
      with_logits: whether logits are wanted.
      last_only: whether only the last of each sequence's tokens counts: S is 1 in what comes back.

    Returns:
      best_BS: int32, the most likely next token, the lowest id of equals; 0 behind a sequence's count.
      logits_BSV: float32, zeros behind a sequence's count; or None.
      cache: with `count_B` more positions of each sequence.

    Raises, when it runs, an error of XLA where a sequence has no room for its tokens or an id lies outside of the
    vocabulary.
    """
    spec, (V, D) = weights.spec, weights.table_VD.shape
    outcomes_BS = (tokens_BS.shape[0], 1 if last_only else tokens_BS.shape[1])
    outputs = (
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in cache),
        jax.ShapeDtypeStruct(outcomes_BS, jnp.int32),
        jax.ShapeDtypeStruct((*outcomes_BS, V) if with_logits else (0,), jnp.float32),
    )
    k_LBHKT, v_LBHTK, best_BS, logits_BSV = cpu.call(
        "ryot_decode_step",
        outputs,
        tokens_BS,
        length_B,
        count_B,
        *cache,
        *weights.arrays,
        aliases={"keys": "keys", "values": "values"},
        hidden=np.int64(spec.d_ff),
        head_width=np.int64(D // spec.n_heads),
        activation=activation_code(spec.mlp),
        centre=np.int64(spec.centre),
        bfloat16=np.int64(weights.dtype == "bfloat16"),
        epsilon=np.float32(spec.epsilon),
    )
    return best_BS, logits_BSV if with_logits else None, StepCache(k_LBHKT, v_LBHTK)


def _packed_matrix(w: jax.Array, dtype: str, *, transposed: bool = False) -> jax.Array:
    panel, group = cpu.packing(dtype)
    inputs, outputs = w.shape[::-1] if transposed else w.shape
    shape = (-(-outputs // panel), -(-inputs // group), panel)
    packed: jax.Array = cpu.call(
        "ryot_pack_weights",
        jax.ShapeDtypeStruct(shape, jnp.uint32),
        w,
        transposed=np.int64(transposed),
        bfloat16=np.int64(dtype == "bfloat16"),
    )
    return packed
