"""Look-up of token embeddings.

Forward it is XLA's gather everywhere. Backward XLA's scatter-add on a CPU runs on one thread; `cpu` spreads it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import choose, rows, stub


def embedding(
    table_VD: jax.Array,
    tokens: jax.Array,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """table[tokens].

    Args:
      table_VD: one row a token id, any float dtype; the gradient comes in it.
      tokens: [...], integers. An id outside of [0, V) gives NaN, and no gradient.
      dtype: of the outcome; None: the table's.
      implementation: 'reference' or 'cpu' (C++ in the backward pass, float32 sums; float32 and bfloat16).

    Returns:
      [..., D]. Differentiable in the table (once for 'cpu').

    Raises:
      ValueError: the table is not a matrix, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if table_VD.ndim != 2:
        raise ValueError(f"need table[V,D]; got {table_VD.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"need integer tokens; got {tokens.dtype}")
    outcome = jax.ShapeDtypeStruct((), jnp.dtype(dtype or table_VD.dtype))
    look_up = choose(_IMPLEMENTATIONS, implementation, table_VD, outcome)
    return look_up(outcome.dtype, table_VD.shape[0], table_VD, tokens)


def _take(dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array) -> jax.Array:
    del V
    # As jnp.take, but for an id below zero, which does not count from the end.
    x = table_VD.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return x.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cpu(dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array) -> jax.Array:
    return _take(dtype, V, table_VD, tokens)


def _cpu_forward(
    dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None]]:
    return _take(dtype, V, table_VD, tokens), (tokens, stub(table_VD))


def _cpu_backward(
    dtype: jnp.dtype, V: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, None]:
    del dtype
    tokens, table = saved
    out = jax.ShapeDtypeStruct((V, dy.shape[-1]), jnp.float32)
    dtable_VD = cpu.call("ryot_embedding_backward", out, rows(dy), tokens.reshape(-1).astype(jnp.int32))
    return dtable_VD.astype(table.dtype), None


_cpu.defvjp(_cpu_forward, _cpu_backward)

_IMPLEMENTATIONS: dict[str, Callable[[jnp.dtype, int, jax.Array, jax.Array], jax.Array]] = {
    "reference": _take,
    "cpu": _cpu,
}
