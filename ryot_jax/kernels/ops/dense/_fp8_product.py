"""Matrix products of 8-bit floats for GPUs whose tensor cores multiply them (Ada, Hopper and later).

Micikevicius et al., 2022, "FP8 formats for deep learning" (arXiv:2209.05433): activations and weights have 3 bits of
mantissa (E4M3), gradients 2 bits and a wider range (E5M2), and each array one scale. The scale comes from the array
itself, at the cost of a pass over it, not from earlier steps, which would be state to carry and to store.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.operands import OwnGradient, cast_gradient, dtype_token, rows

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2
MULTIPLE = 16  # cuBLASLt's requirement on rows and columns of every operand


class Scaled(NamedTuple):
    """An array as `values * scale`."""

    values: jax.Array
    scale: jax.Array  # float32, one number


def scaled(x: jax.Array, dtype: jax.typing.DTypeLike) -> Scaled:
    """Round an array to an 8-bit dtype, with the scale that maps its largest magnitude to the dtype's.

    If x has an infinity or a NaN, all of it becomes NaN, so that the loss shows it.
    """
    limit = float(jnp.finfo(dtype).max)
    largest = jnp.max(jnp.abs(x), initial=0).astype(jnp.float32)
    scale = jnp.maximum(largest / limit, float(jnp.finfo(jnp.float32).tiny))  # an array of zeros needs a scale too
    # The quotient may exceed the limit by a rounding, which E4M3 would turn into NaN.
    values = jnp.clip(x.astype(jnp.float32) / scale, -limit, limit).astype(dtype)
    return Scaled(values, scale)


def _dot(
    a: Scaled, b: Scaled, axes: tuple[int, int], dtype: jax.typing.DTypeLike, precision: lax.Precision
) -> jax.Array:
    # Sums are float32 in any case. Before scaling they may exceed float16's range, but not bfloat16's, which halves the
    # bytes that a GPU writes.
    outcome = jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    sums = lax.dot_general(a.values, b.values, dimensions, precision=precision, preferred_element_type=outcome)
    return (sums.astype(jnp.float32) * (a.scale * b.scale)).astype(dtype)


@OwnGradient
def product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    """The product x w of 8-bit operands, with sums in float32; the products of its backward pass likewise.

    A rounding error is at most 2^-4 of a number (2^-3 in gradients) or, for small numbers, 2^-18 (2^-32) of the array's
    largest. A bfloat16 result is rounded to bfloat16 twice, before and after scaling.

    Args:
      x: [..., D], any float dtype of 16 bits or more.
      w_DF: weights; their gradient has their own dtype.

    Returns:
      [..., F] in x's dtype. Differentiable once.
    """
    return _forward(x, w_DF)[0]


def _forward(x: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[Scaled, Scaled, jax.Array | None]]:
    x_ND, w = scaled(rows(x), FORWARD), scaled(w_DF, FORWARD)
    y_NF = _dot(x_ND, w, (1, 0), x.dtype, lax.Precision.DEFAULT)
    return y_NF.reshape(*x.shape[:-1], w_DF.shape[1]), (x_ND, w, dtype_token(w_DF))


def _backward(saved: tuple[Scaled, Scaled, jax.Array | None], dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    x_ND, w, w_token = saved
    dy_NF = scaled(rows(dy), BACKWARD)
    # Hopper's tensor cores keep about 14 bits of a sum unless the compiler is asked for more, as Flax does in the
    # backward pass of its own fp8 products.
    dx_ND = _dot(dy_NF, w, (1, 1), dy.dtype, lax.Precision.HIGHEST)
    dw_DF = _dot(x_ND, dy_NF, (0, 0), jnp.float32, lax.Precision.HIGHEST)
    return dx_ND.reshape(*dy.shape[:-1], w.values.shape[0]), cast_gradient(dw_DF, w_token)


product.defvjp(_forward, _backward)


def refusal(compute_capability: str, dtype: str, sizes: dict[str, int]) -> str | None:
    """The reason why a GPU cannot run products of 8-bit operands of these sizes; None: it can.

    Args:
      compute_capability: the GPU's, such as '9.0'.
      dtype: dtype of the arrays between the products.
      sizes: name -> rows or columns of an operand.
    """
    try:
        capability = float(compute_capability)
    except ValueError:
        return "products of 8-bit floats run on NVIDIA GPUs; the compute capability of this one is not known"
    if capability < 8.9:
        return f"products of 8-bit floats need compute capability 8.9 (Ada), this device has {compute_capability}"
    if dtype not in ("bfloat16", "float16"):
        return f"products of 8-bit floats are for models that compute in 16 bits, not in {dtype}"
    if wrong := [f"{name} = {size}" for name, size in sizes.items() if size % MULTIPLE]:
        return f"products of 8-bit floats take sizes that are multiples of {MULTIPLE}, not {', '.join(wrong)}"
    return None
