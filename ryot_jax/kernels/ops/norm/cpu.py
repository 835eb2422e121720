"""Norms in C++, forward and backward each in one pass over their arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import as_ffi_operand, rows
from ryot_jax.kernels.ops.norm._definition import Settings
from ryot_jax.kernels.ops.norm._own_gradient import with_own_gradient
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_refusal


def _forward(
    settings: Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array, Any]:
    x_ND = rows(x)
    s_dtype = x.dtype if residual is None else jnp.promote_types(x.dtype, residual.dtype)
    out = (
        jax.ShapeDtypeStruct(x_ND.shape, settings.dtype),
        jax.ShapeDtypeStruct((0,) if residual is None else x_ND.shape, s_dtype),
        jax.ShapeDtypeStruct((x_ND.shape[0], 2), jnp.float32),
    )
    y_ND, s_ND, statistics_N2 = cpu.call(
        "ryot_norm_forward",
        out,
        x_ND,
        as_ffi_operand(None if residual is None else rows(residual)),
        scale_D.astype(jnp.float32),
        as_ffi_operand(bias_D, jnp.float32),
        epsilon=np.float32(settings.epsilon),
        centre=np.int64(settings.centre),
    )
    return y_ND.reshape(x.shape), x if residual is None else s_ND.reshape(x.shape), statistics_N2


def _backward(
    settings: Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    s_ND = rows(s)
    donor = "s" if ds is None else "ds" if ds.dtype == s.dtype else None  # whose memory dx may take
    vector = jax.ShapeDtypeStruct(scale_D.shape, jnp.float32)
    dx_ND, dscale_D, dbias_D = cpu.call(
        "ryot_norm_backward",
        (jax.ShapeDtypeStruct(s_ND.shape, s.dtype), vector, vector),
        rows(dy),
        s_ND,
        scale_D.astype(jnp.float32),
        statistics,
        as_ffi_operand(None if ds is None else rows(ds)),
        aliases=None if donor is None else {donor: "dx"},
        centre=np.int64(settings.centre),
    )
    return dx_ND.reshape(s.shape), dscale_D, dbias_D


IMPLEMENTATION = Implementation(
    function=with_own_gradient(_forward, _backward),
    equivalence="allclose",
    probe=custom_call("ryot_norm"),
    refusal=cpp_refusal,
    require=cpp_dtypes,
    where="C++",
)
