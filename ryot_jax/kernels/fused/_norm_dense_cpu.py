"""The C++ kernels of `norm_dense` and `norm_mlp`, with their gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import OwnGradient, as_ffi_operand, cast_gradient, dtype_token, rows
from ryot_jax.kernels.ops.dense._layer import activation_code
from ryot_jax.kernels.ops.dense.cpu import Saved, cpu_backward, cpu_forward


class Settings(NamedTuple):
    """Static settings of the norm in front of the product."""

    dtype: Any  # of the product
    centre: bool
    epsilon: float


class _Saved(NamedTuple):
    """Arrays that the backward pass of the first layer needs; `slopes_NF` as in `dense.Saved`."""

    x: jax.Array
    scale_D: jax.Array
    bias_D: jax.Array | None
    statistics_N2: jax.Array
    w_DF: jax.Array
    slopes_NF: jax.Array
    b_token: jax.Array | None


def _forward(
    activation: str,
    settings: Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    w_DF: jax.Array,
    b_F: jax.Array | None,
) -> tuple[jax.Array, _Saved]:
    x_ND, width = rows(x), w_DF.shape[1]
    N, width_out = x_ND.shape[0], width // 2 if activation == "swiglu" else width
    out = (
        jax.ShapeDtypeStruct((N, width_out), settings.dtype),
        jax.ShapeDtypeStruct((0,) if activation == "none" else (N, width), settings.dtype),
        jax.ShapeDtypeStruct((N, 2), jnp.float32),
    )
    y_NO, slopes_NF, statistics_N2 = cpu.call(
        "ryot_norm_dense_forward",
        out,
        x_ND,
        scale_D.astype(jnp.float32),
        as_ffi_operand(bias_D, jnp.float32),
        w_DF.astype(jnp.float32),
        as_ffi_operand(b_F, jnp.float32),
        activation=activation_code(activation),
        epsilon=np.float32(settings.epsilon),
        centre=np.int64(settings.centre),
    )
    saved = _Saved(x, scale_D, bias_D, statistics_N2, w_DF, slopes_NF, dtype_token(b_F))
    return y_NO.reshape(*x.shape[:-1], width_out), saved


_Gradients = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array | None]


def _backward(activation: str, settings: Settings, saved: _Saved, dy: jax.Array, dx: jax.Array) -> _Gradients:
    """Gradients of x (including `dx`, that of its other use), scale, bias, weights and the layer's bias."""
    x_ND, dx_ND = rows(saved.x), rows(dx)
    bias_D, w_DF = as_ffi_operand(saved.bias_D, jnp.float32), saved.w_DF
    vector = jax.ShapeDtypeStruct(saved.scale_D.shape, jnp.float32)
    out = (
        jax.ShapeDtypeStruct(x_ND.shape, saved.x.dtype),
        vector,
        jax.ShapeDtypeStruct(bias_D.shape, jnp.float32),
        jax.ShapeDtypeStruct(w_DF.shape, jnp.float32),
        jax.ShapeDtypeStruct((0,) if saved.b_token is None else w_DF.shape[1:], jnp.float32),
    )
    total_ND, dscale_D, dbias_D, dw_DF, db_F = cpu.call(
        "ryot_norm_dense_backward",
        out,
        rows(dy),
        x_ND,
        saved.scale_D.astype(jnp.float32),
        bias_D,
        saved.statistics_N2,
        w_DF.astype(jnp.float32),
        saved.slopes_NF,
        dx_ND,
        aliases={"ds": "dx"} if dx_ND.dtype == saved.x.dtype else None,
        activation=activation_code(activation),
        centre=np.int64(settings.centre),
    )
    return (
        total_ND.reshape(saved.x.shape),
        dscale_D.astype(saved.scale_D.dtype),
        cast_gradient(dbias_D, dtype_token(saved.bias_D)),
        dw_DF.astype(w_DF.dtype),
        cast_gradient(db_F, saved.b_token),
    )


@functools.partial(OwnGradient, nondiff_argnums=(0, 1))
def norm_dense(
    activation: str,
    settings: Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    w_DF: jax.Array,
    b_F: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The dense layer applied to the norm of x, and x; operands are checked by the caller."""
    return _forward(activation, settings, x, scale_D, bias_D, w_DF, b_F)[0], x


def _norm_dense_forward(
    activation: str, settings: Settings, x: jax.Array, *operands: Any
) -> tuple[tuple[jax.Array, jax.Array], _Saved]:
    y, saved = _forward(activation, settings, x, *operands)
    return (y, x), saved


def _norm_dense_backward(
    activation: str, settings: Settings, saved: _Saved, cotangents: tuple[jax.Array, jax.Array]
) -> _Gradients:
    return _backward(activation, settings, saved, *cotangents)


norm_dense.defvjp(_norm_dense_forward, _norm_dense_backward)


@functools.partial(OwnGradient, nondiff_argnums=(0, 1))
def norm_mlp(
    kind: str,
    settings: Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
) -> jax.Array:
    """The sum of x and the MLP of its norm; operands are checked by the caller."""
    operands = x, scale_D, bias_D, up_DF, down_FD, up_bias_F, down_bias_D
    return _norm_mlp_forward(kind, settings, *operands)[0]


def _norm_mlp_forward(
    kind: str,
    settings: Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
) -> tuple[jax.Array, tuple[_Saved, Saved]]:
    hidden, up = _forward(kind, settings, x, scale_D, bias_D, up_DF, up_bias_F)
    y, down = cpu_forward("none", hidden, down_FD, down_bias_D, x)
    return y, (up, down)


def _norm_mlp_backward(
    kind: str, settings: Settings, saved: tuple[_Saved, Saved], dy: jax.Array
) -> tuple[jax.Array | None, ...]:
    del kind
    up, down = saved
    dh, d_down, d_down_bias, _ = cpu_backward("none", down, dy, up.slopes_NF)
    up = up._replace(slopes_NF=jnp.zeros((0,), dh.dtype))  # dh has been multiplied by them
    dx, dscale_D, dbias_D, d_up, d_up_bias = _backward("none", settings, up, dh, dy)
    return dx, dscale_D, dbias_D, d_up, d_down, d_up_bias, d_down_bias


norm_mlp.defvjp(_norm_mlp_forward, _norm_mlp_backward)
