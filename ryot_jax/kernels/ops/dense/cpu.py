"""Dense layers in C++, with bias, activation and residual applied while a product's sums are in registers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import OwnGradient, as_ffi_operand, cast_gradient, dtype_token, rows
from ryot_jax.kernels.ops.dense._layer import activation_code
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_refusal


@functools.partial(OwnGradient, nondiff_argnums=(0,))
def _cpu(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> jax.Array:
    return cpu_forward(activation, x, w_DF, b_F, residual)[0]


class Saved(NamedTuple):
    """Arrays that the backward pass needs; `slopes_NF` is dy / d(x w + b), empty without an activation."""

    x: jax.Array
    w_DF: jax.Array
    slopes_NF: jax.Array
    b_token: jax.Array | None
    residual_token: jax.Array | None


def cpu_forward(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> tuple[jax.Array, Saved]:
    """The op's result y, and the arrays that `cpu_backward` takes; operands are checked by the caller."""
    x_ND, width = rows(x), w_DF.shape[1]
    width_out = width // 2 if activation == "swiglu" else width
    out = (
        jax.ShapeDtypeStruct((x_ND.shape[0], width_out), x.dtype if residual is None else residual.dtype),
        jax.ShapeDtypeStruct((0,) if activation == "none" else (x_ND.shape[0], width), x.dtype),
    )
    y_NO, slopes_NF = cpu.call(
        "ryot_dense_forward",
        out,
        x_ND,
        w_DF.astype(jnp.float32),
        as_ffi_operand(b_F, jnp.float32),
        as_ffi_operand(None if residual is None else rows(residual)),
        activation=activation_code(activation),
    )
    return y_NO.reshape(*x.shape[:-1], width_out), Saved(x, w_DF, slopes_NF, dtype_token(b_F), dtype_token(residual))


def cpu_backward(
    activation: str, saved: Saved, dy: jax.Array, x_slopes_ND: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Gradients of x (multiplied by `x_slopes_ND`, if given), weights, bias and residual."""
    x, w_DF, slopes_NF, b_token, residual_token = saved
    x_ND = rows(x)
    out = (
        jax.ShapeDtypeStruct(x_ND.shape, x.dtype),
        jax.ShapeDtypeStruct(w_DF.shape, jnp.float32),
        jax.ShapeDtypeStruct((0,) if b_token is None else w_DF.shape[1:], jnp.float32),
    )
    dx_ND, dw_DF, db_F = cpu.call(
        "ryot_dense_backward",
        out,
        rows(dy),
        x_ND,
        w_DF.astype(jnp.float32),
        slopes_NF,
        as_ffi_operand(x_slopes_ND, x.dtype),
        aliases=None if x_slopes_ND is None else {"x_slopes": "dx"},
        activation=activation_code(activation),
    )
    db_F, dresidual = cast_gradient(db_F, b_token), cast_gradient(dy, residual_token)
    return dx_ND.reshape(x.shape), dw_DF.astype(w_DF.dtype), db_F, dresidual


_cpu.defvjp(cpu_forward, cpu_backward)


def _cpu_of_any_residual(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> jax.Array:
    if residual is None or x.dtype == jnp.bfloat16:
        return _cpu(activation, x, w_DF, b_F, residual)
    # The float32 kernels take no other dtype.
    return _cpu(activation, x, w_DF, b_F, residual.astype(x.dtype)).astype(residual.dtype)


IMPLEMENTATION = Implementation(
    function=_cpu_of_any_residual,
    equivalence="allclose",
    probe=custom_call("ryot_dense"),
    refusal=cpp_refusal,
    require=cpp_dtypes,
    where="C++",
)
