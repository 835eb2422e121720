"""Dense layer: product with a weight matrix, and a bias.

`xla_bf16` exists for CPUs with AVX512-BF16: XLA runs a product of bfloat16 operands there at twice the rate
of float32, but only if the output is float32, and automatic differentiation would hand the backward products
a float32 cotangent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def dense(
    x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None = None, *, implementation: str = "reference"
) -> jax.Array:
    """The product x w + b over the last axis of x.

    Args:
      x: [..., D], any float dtype.
      w_DF: weights; cast to x's dtype, their gradient comes in their own dtype.
      b_F: bias, or None.
      implementation: 'reference': products in x's dtype, accumulated in float32. 'xla_bf16': operands and
        cotangents rounded to bfloat16 (relative error of a rounding: 2^-9), accumulated in float32.

    Returns:
      y: [..., F] in x's dtype.

    Raises:
      ValueError: shapes do not fit, or the implementation is not known.
    """
    if w_DF.ndim != 2 or x.shape[-1:] != w_DF.shape[:1] or (b_F is not None and b_F.shape != w_DF.shape[1:]):
        raise ValueError(f"need x[..., D], w[D,F], b[F]; got {x.shape}, {w_DF.shape}, {getattr(b_F, 'shape', None)}")
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is not one of {sorted(_IMPLEMENTATIONS)}")
    y = _IMPLEMENTATIONS[implementation](x, w_DF)
    return y if b_F is None else y + b_F.astype(y.dtype).reshape((1,) * (y.ndim - 1) + b_F.shape)


def _reference(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, w_DF.astype(x.dtype), preferred_element_type=accumulate).astype(x.dtype)


def _bf16_product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _xla_bf16(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    y_MF = _bf16_product(x.reshape(-1, x.shape[-1]), w_DF, 1, 0)
    return y_MF.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _xla_bf16_forward(x: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _xla_bf16(x, w_DF), (x, w_DF)


def _xla_bf16_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_DF = residuals
    dy_MF = dy.reshape(-1, dy.shape[-1])
    dx_MD = _bf16_product(dy_MF, w_DF, 1, 1)
    dw_DF = _bf16_product(x.reshape(-1, x.shape[-1]), dy_MF, 0, 0)
    return dx_MD.reshape(x.shape).astype(x.dtype), dw_DF.astype(w_DF.dtype)


_xla_bf16.defvjp(_xla_bf16_forward, _xla_bf16_backward)

_IMPLEMENTATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "reference": _reference,
    "xla_bf16": _xla_bf16,
}
