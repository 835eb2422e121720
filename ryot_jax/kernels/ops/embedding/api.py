"""The public function of the op: `embedding`."""

import jax
import jax.numpy as jnp

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
    """Token embeddings table[tokens] + positions.

    Args:
      table_VD: one row per token id, any float dtype, which its gradient has too.
      tokens: [...], or [..., T] with positions; integers. An id outside [0, V) gives NaN, and no gradient of the
        table.
      positions_TD: added to each sequence, any float dtype; or None.
      dtype: dtype of the result; None: the table's.
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
