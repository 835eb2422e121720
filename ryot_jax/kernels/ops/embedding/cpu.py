"""Embedding by XLA's gather, with a multi-threaded C++ scatter-add in the backward pass."""

import functools

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import OwnGradient, cast_gradient, dtype_token, rows
from ryot_jax.kernels.ops.embedding.reference import take
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_weights_refusal


@functools.partial(OwnGradient, nondiff_argnums=(0, 1))
def _cpu(dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None) -> jax.Array:
    return take(dtype, V, table_VD, tokens, positions_TD)


_Saved = tuple[jax.Array, jax.Array | None, jax.Array | None]


def _cpu_forward(
    dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None
) -> tuple[jax.Array, _Saved]:
    return take(dtype, V, table_VD, tokens, positions_TD), (tokens, dtype_token(table_VD), dtype_token(positions_TD))


def _cpu_backward(
    dtype: jnp.dtype, V: int, saved: _Saved, dy: jax.Array
) -> tuple[jax.Array | None, None, jax.Array | None]:
    del dtype
    tokens, table, positions = saved
    out = jax.ShapeDtypeStruct((V, dy.shape[-1]), jnp.float32)
    dtable_VD = cpu.call("ryot_embedding_backward", out, rows(dy), tokens.reshape(-1).astype(jnp.int32))
    if positions is None:
        return cast_gradient(dtable_VD, table), None, None
    shape_TD = dy.shape[-2:]
    dy_BP = dy.astype(jnp.float32).reshape(-1, shape_TD[0] * shape_TD[1])
    dpositions_P = jnp.ones(dy_BP.shape[:1]) @ dy_BP
    return cast_gradient(dtable_VD, table), None, cast_gradient(dpositions_P.reshape(shape_TD), positions)


_cpu.defvjp(_cpu_forward, _cpu_backward)

IMPLEMENTATION = Implementation(
    function=_cpu,
    equivalence="allclose",
    probe=custom_call("ryot_embedding"),
    refusal=cpp_weights_refusal,
    require=cpp_dtypes,
    where="C++",
)
