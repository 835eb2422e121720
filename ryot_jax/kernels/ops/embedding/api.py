"""Look-up of token embeddings, with learned positions.

Forward it is XLA's gather everywhere. Backward XLA's scatter-add on a CPU runs on one thread; `cpu` spreads it. And
XLA's sum over the sequences, the gradient of the positions, is up to fifty times slower there than the memory
allows (seen with jaxlib 0.10.2 for 32 x 128 x 512); `cpu` takes it as a product with a row of ones.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import choose, gradient, rows, stub


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
    look_up = choose(_IMPLEMENTATIONS, implementation, table_VD, positions_TD, outcome)
    return look_up(outcome.dtype, table_VD.shape[0], table_VD, tokens, positions_TD)


def _take(
    dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None
) -> jax.Array:
    del V
    # As jnp.take, but for an id below zero, which does not count from the end.
    x = table_VD.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    if positions_TD is not None:
        x = x + positions_TD.reshape((1,) * (tokens.ndim - 1) + positions_TD.shape)
    return x.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cpu(dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None) -> jax.Array:
    return _take(dtype, V, table_VD, tokens, positions_TD)


_Saved = tuple[jax.Array, jax.Array | None, jax.Array | None]


def _cpu_forward(
    dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None
) -> tuple[jax.Array, _Saved]:
    return _take(dtype, V, table_VD, tokens, positions_TD), (tokens, stub(table_VD), stub(positions_TD))


def _cpu_backward(
    dtype: jnp.dtype, V: int, saved: _Saved, dy: jax.Array
) -> tuple[jax.Array | None, None, jax.Array | None]:
    del dtype
    tokens, table, positions = saved
    out = jax.ShapeDtypeStruct((V, dy.shape[-1]), jnp.float32)
    dtable_VD = cpu.call("ryot_embedding_backward", out, rows(dy), tokens.reshape(-1).astype(jnp.int32))
    if positions is None:
        return gradient(dtable_VD, table), None, None
    shape_TD = dy.shape[-2:]
    dy_BP = dy.astype(jnp.float32).reshape(-1, shape_TD[0] * shape_TD[1])
    dpositions_P = jnp.ones(dy_BP.shape[:1]) @ dy_BP
    return gradient(dtable_VD, table), None, gradient(dpositions_P.reshape(shape_TD), positions)


_cpu.defvjp(_cpu_forward, _cpu_backward)

_Apply = Callable[[jnp.dtype, int, jax.Array, jax.Array, jax.Array | None], jax.Array]
_IMPLEMENTATIONS: dict[str, _Apply] = {"reference": _take, "cpu": _cpu}
