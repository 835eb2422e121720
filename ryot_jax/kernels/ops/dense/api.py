"""Dense layer: product with a weight matrix, bias, activation and residual as one op.

`xla` exists for CPUs with AVX512-BF16: XLA runs a product of bfloat16 operands there at twice the rate of float32,
but only if the output is float32, and automatic differentiation would hand the backward products a float32
cotangent. `cpu` does the same in C++, and applies what follows the product while its sums are in registers. `fp8` is
for GPUs that multiply 8-bit floats at twice the rate of 16-bit ones.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import accumulator, choose, gradient, operand, row, rows, stub
from ryot_jax.kernels.ops.dense import fp8


def dense(
    x: jax.Array,
    w_DF: jax.Array,
    b_F: jax.Array | None = None,
    *,
    activation: str = "none",
    residual: jax.Array | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """activation(x w + b) + residual, over the last axis of x.

    Args:
      x: [..., D], any float dtype.
      w_DF: weights; [D, 2F] for 'swiglu', the columns of the gate first. Cast to x's dtype for the product; their
        gradient comes in their own dtype.
      b_F: bias of the product, or None.
      activation: 'none', 'gelu' (tanh form, arXiv:1606.08415), 'relu2' (max(h, 0)^2, arXiv:2109.08668) or 'swiglu'
        (silu(gate) * value, arXiv:2002.05202).
      residual: added to the outcome, or None; of the outcome's shape.
      implementation: 'reference': products in x's dtype, accumulated in float32 (bfloat16: rounded once more). 'xla':
        operands and cotangents rounded to bfloat16 (relative error of a rounding: 2^-9), accumulated in float32. 'cpu':
        C++; x in float32 or bfloat16, which the products run in. 'fp8': operands and cotangents rounded to 8-bit floats
        with one scale an array (see `fp8.product`); emulated, slowly, on devices without such products.

    Returns:
      y: [..., F] in the residual's dtype, or x's where there is none. Differentiable (once for all but 'reference').

    Raises:
      ValueError: shapes do not fit, or the activation or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is not one of {sorted(_ACTIVATIONS)}")
    if w_DF.ndim != 2 or x.shape[-1:] != w_DF.shape[:1] or (b_F is not None and b_F.shape != w_DF.shape[1:]):
        raise ValueError(f"need x[..., D], w[D,F], b[F]; got {x.shape}, {w_DF.shape}, {getattr(b_F, 'shape', None)}")
    width = w_DF.shape[1]
    if activation == "swiglu" and width % 2:
        raise ValueError(f"swiglu needs w[D, 2F]: gate and value; got {w_DF.shape}")
    y_shape = (*x.shape[:-1], width // 2 if activation == "swiglu" else width)
    if residual is not None and residual.shape != y_shape:
        raise ValueError(f"need a residual of shape {y_shape}; got {residual.shape}")
    apply = choose(_IMPLEMENTATIONS, implementation, x, residual)
    return apply(activation, x, w_DF, b_F, residual)


def _swiglu(h: jax.Array) -> jax.Array:
    gate, value = jnp.split(h, 2, axis=-1)
    return jax.nn.silu(gate) * value


# In the order of the handlers' numbers for them.
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda h: h,
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu2": lambda h: jnp.square(jax.nn.relu(h)),
    "swiglu": _swiglu,
}


def _product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    if x.dtype == jnp.bfloat16:
        # As Flax's own layers: a float32 outcome would give the backward products a float32 cotangent, and a GPU would
        # run them at half the rate or less.
        return jnp.matmul(x, w_DF.astype(x.dtype)).astype(jnp.float32)
    return jnp.matmul(x, w_DF.astype(x.dtype), preferred_element_type=accumulator(x.dtype))


def _bf16_dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _bf16_product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    return _bf16_dot(rows(x), w_DF, 1, 0).reshape(*x.shape[:-1], w_DF.shape[1])


def _bf16_product_forward(x: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bf16_product(x, w_DF), (x, w_DF)


def _bf16_product_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_DF = saved
    dx_ND = _bf16_dot(rows(dy), w_DF, 1, 1)
    dw_DF = _bf16_dot(rows(x), rows(dy), 0, 0)
    return dx_ND.reshape(x.shape).astype(x.dtype), dw_DF.astype(w_DF.dtype)


_bf16_product.defvjp(_bf16_product_forward, _bf16_product_backward)


def _after(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    activation: str,
    x: jax.Array,
    w_DF: jax.Array,
    b_F: jax.Array | None,
    residual: jax.Array | None,
) -> jax.Array:
    h = product(x, w_DF)
    if b_F is not None:
        h = h + row(b_F.astype(h.dtype), h)
    y = _ACTIVATIONS[activation](h.astype(x.dtype))
    return y if residual is None else residual + y.astype(residual.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> jax.Array:
    return cpu_forward(activation, x, w_DF, b_F, residual)[0]


def activation_code(activation: str) -> np.int64:
    """The handlers' number for it."""
    return np.int64(list(_ACTIVATIONS).index(activation))


class Saved(NamedTuple):
    """What the backward pass of the C++ kernels needs; `slopes_NF` is dy / d(x w + b), empty without activation."""

    x: jax.Array
    w_DF: jax.Array
    slopes_NF: jax.Array
    b_stub: jax.Array | None
    residual_stub: jax.Array | None


def cpu_forward(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> tuple[jax.Array, Saved]:
    """The op in C++, for checked operands: y, and what `cpu_backward` takes."""
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
        operand(b_F, jnp.float32),
        operand(None if residual is None else rows(residual)),
        activation=activation_code(activation),
    )
    return y_NO.reshape(*x.shape[:-1], width_out), Saved(x, w_DF, slopes_NF, stub(b_F), stub(residual))


def cpu_backward(
    activation: str, saved: Saved, dy: jax.Array, x_slopes_ND: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Gradients of x (multiplied by `x_slopes_ND`, if that is given), weights, bias and residual."""
    x, w_DF, slopes_NF, b_stub, residual_stub = saved
    x_ND = rows(x)
    out = (
        jax.ShapeDtypeStruct(x_ND.shape, x.dtype),
        jax.ShapeDtypeStruct(w_DF.shape, jnp.float32),
        jax.ShapeDtypeStruct((0,) if b_stub is None else w_DF.shape[1:], jnp.float32),
    )
    dx_ND, dw_DF, db_F = cpu.call_in_place(
        "ryot_dense_backward",
        out,
        {} if x_slopes_ND is None else {4: 0},
        rows(dy),
        x_ND,
        w_DF.astype(jnp.float32),
        slopes_NF,
        operand(x_slopes_ND, x.dtype),
        activation=activation_code(activation),
    )
    return dx_ND.reshape(x.shape), dw_DF.astype(w_DF.dtype), gradient(db_F, b_stub), gradient(dy, residual_stub)


_cpu.defvjp(cpu_forward, cpu_backward)


def _cpu_of_any_residual(
    activation: str, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None, residual: jax.Array | None
) -> jax.Array:
    if residual is None or x.dtype == jnp.bfloat16:
        return _cpu(activation, x, w_DF, b_F, residual)
    # The float32 kernels know no other dtype.
    return _cpu(activation, x, w_DF, b_F, residual.astype(x.dtype)).astype(residual.dtype)


def _fp8_product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    return fp8.product(x, w_DF).astype(accumulator(x.dtype))


_Apply = Callable[[str, jax.Array, jax.Array, jax.Array | None, jax.Array | None], jax.Array]
_IMPLEMENTATIONS: dict[str, _Apply] = {
    "reference": functools.partial(_after, _product),
    "xla": functools.partial(_after, _bf16_product),
    "fp8": functools.partial(_after, _fp8_product),
    "cpu": _cpu_of_any_residual,
}
