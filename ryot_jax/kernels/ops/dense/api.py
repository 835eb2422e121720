"""The public function of the op: `dense`."""

import jax

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.dense import OP
from ryot_jax.kernels.ops.dense._layer import ACTIVATIONS


def dense(
    x: jax.Array,
    w_DF: jax.Array,
    b_F: jax.Array | None = None,
    *,
    activation: str = "none",
    residual: jax.Array | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """Dense layer activation(x w + b) + residual, over the last axis of x.

    Args:
      x: [..., D], any float dtype.
      w_DF: weights; [D, 2F] for 'swiglu', the columns of the gate first. Cast to x's dtype for the product; their
        gradient has their own dtype.
      b_F: bias of the product, or None.
      activation: 'none', 'gelu' (tanh form, arXiv:1606.08415), 'relu2' (max(h, 0)^2, arXiv:2109.08668) or 'swiglu'
        (silu(gate) * value, arXiv:2002.05202).
      residual: added last, in the result's shape; or None.
      implementation: 'reference': products in x's dtype, accumulated in float32 (bfloat16: rounded once more). 'xla':
        operands and cotangents rounded to bfloat16 (relative error of a rounding: 2^-9), accumulated in float32. 'cpu':
        C++; products in x's dtype, float32 or bfloat16. 'fp8': operands and cotangents rounded to 8-bit floats with one
        scale per array (see `_fp8_product.product`); emulated, slowly, on devices without such products.

    Returns:
      y: [..., F] in the residual's dtype, or x's without one. Differentiable (once for all but 'reference').

    Raises:
      ValueError: shapes do not fit, or the activation or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is not one of {sorted(ACTIVATIONS)}")
    if w_DF.ndim != 2 or x.shape[-1:] != w_DF.shape[:1] or (b_F is not None and b_F.shape != w_DF.shape[1:]):
        raise ValueError(f"need x[..., D], w[D,F], b[F]; got {x.shape}, {w_DF.shape}, {getattr(b_F, 'shape', None)}")
    width = w_DF.shape[1]
    if activation == "swiglu" and width % 2:
        raise ValueError(f"swiglu needs w[D, 2F]: gate and value; got {w_DF.shape}")
    y_shape = (*x.shape[:-1], width // 2 if activation == "swiglu" else width)
    if residual is not None and residual.shape != y_shape:
        raise ValueError(f"need a residual of shape {y_shape}; got {residual.shape}")
    y: jax.Array = choose(OP, implementation, x, residual)(activation, x, w_DF, b_F, residual)
    return y
