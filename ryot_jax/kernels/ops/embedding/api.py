"""The public function of the op: `embedding`."""

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import Benchmark, normal, zipf_tokens
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.embedding import OP


def embedding(
    table_VD: jax.Array,
    tokens: jax.Array,
    positions_TD: jax.Array | None = None,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """table[tokens] + positions.

    Args:
      table_VD: one row a token id, any float dtype; the gradient comes in it.
      tokens: [...], or [..., T] with positions; integers. An id outside of [0, V) gives NaN, and no gradient of the
        table.
      positions_TD: added to each sequence, any float dtype; or None.
      dtype: of the outcome; None: the table's.
      implementation: 'reference' or 'cpu' (C++ in the backward pass, float32 sums; float32 and bfloat16).

    Returns:
      [..., D]. Differentiable in table and positions (once for 'cpu').

    Raises:
      ValueError: shapes do not fit, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if table_VD.ndim != 2:
        raise ValueError(f"need table[V,D]; got {table_VD.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"need integer tokens; got {tokens.dtype}")
    if positions_TD is not None and positions_TD.shape != (*tokens.shape[-1:], table_VD.shape[1]):
        raise ValueError(f"need tokens[...,T], positions[T,D]; got {tokens.shape}, {positions_TD.shape}")
    outcome = jax.ShapeDtypeStruct((), jnp.dtype(dtype or table_VD.dtype))
    look_up = choose(OP, implementation, table_VD, positions_TD, outcome)
    x: jax.Array = look_up(outcome.dtype, table_VD.shape[0], table_VD, tokens, positions_TD)
    return x


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The look-up of one step's tokens, as unevenly used as a text's; float32 whatever the model computes in."""

    def taken(implementation: str, table_VD: jax.Array, tokens_N: jax.Array) -> jax.Array:
        return embedding(table_VD, tokens_N, implementation=implementation)

    tokens_N = jnp.asarray(zipf_tokens(rng, spec.vocab_size, (spec.rows,)))
    table_VD = normal(rng, (spec.vocab_size, spec.d_model))
    return Benchmark(taken, (table_VD,), (tokens_N,), rounding="float32")
