"""One step of decoding with a pre-norm transformer: all layers in one call of the C++ kernels.

A step of a small model consists of a hundred operations of a microsecond each, and XLA's launch overhead is most of its
time; here the step is one operation. The output for a token depends, to the bit, on that token and its predecessors
alone: not on the number of tokens in the step, nor on the other sequences. Several tokens checked at once therefore
come out as they would one at a time, on which speculative decoding relies.

There is no reference here: a step is defined by the model that the weights belong to.
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

    `qkv_DE` maps to queries, keys and values, each in order of heads: E = 3 D. `up_DF` maps to the hidden features; for
    swiglu, to those of the gate and then of the value.
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

    A token's row of `table_VD` and its position's row of `positions_PD` are added; queries and keys are rotated by the
    angles in `rotations_PK`: the cosines of a position's K / 2 pairs, then the sines. Either of the two may be None.
    The logits are products of the last features with the rows of `head_VD`.
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
    """Properties that the weights do not show. `mlp`: 'gelu', 'relu2' or 'swiglu'; without `centre` norms are RMS."""

    n_heads: int
    d_ff: int
    mlp: str = "gelu"
    centre: bool = True
    epsilon: float = 1e-5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedWeights:
    """Weights in the kernel's layout, for products in `dtype` ('float32' or 'bfloat16'): a pytree of arrays."""

    arrays: list[jax.Array]
    spec: StepSpec = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})
    n_layers: int = dataclasses.field(metadata={"static": True})

    @property
    def table_VD(self) -> jax.Array:
        """The token embeddings, float32."""
        return self.arrays[0]


class StepCache(NamedTuple):
    """Keys and values of all layers in words of 32 bits, each of g = 1 float32 or g = 2 bfloat16s.

    A word holds neighbouring numbers of a key, or values of neighbouring positions. Entries beyond a sequence's length
    are never read.
    """

    k_LBHKT: jax.Array  # uint32[L, B, H, K / g, T]
    v_LBHTK: jax.Array  # uint32[L, B, H, T / g, K]


def pack_weights(weights: StepWeights, spec: StepSpec, dtype: str) -> PackedWeights:
    """Pack weights into the kernel's layout: 2.3 MB in bfloat16 for 1.1 million of them, and the table in float32.

    Raises:
      NotImplementedError: the C++ kernels cannot run on this machine, or not in this dtype.
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
    """An empty cache with room for at least `capacity` positions."""
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
    """Predict the successors of the first `count_B` of S new tokens, and append these to the cache.

    Args:
      weights: see `pack_weights`.
      tokens_BS: int32 ids; those beyond a sequence's count are ignored.
      length_B: int32, positions that the cache holds of each sequence; later ones are overwritten.
      count_B: int32, number of new tokens per sequence, 0 to S.
      cache: updated in place if it is not used again, as the carry of a loop.
      with_logits: whether to return logits.
      last_only: whether to return results for each sequence's last token only: S is then 1 in the results.

    Returns:
      best_BS: int32, the most likely next token, the lowest id among equals; 0 beyond a sequence's count.
      logits_BSV: float32, zeros beyond a sequence's count; or None.
      cache: the cache with `count_B` more positions of each sequence.

    Raises:
      jax.errors.JaxRuntimeError: at run time, if a sequence has no room for its tokens or an id lies outside the
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
