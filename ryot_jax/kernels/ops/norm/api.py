"""The public functions of the op: `layer_norm` and `rms_norm`."""

from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.norm import OP
from ryot_jax.kernels.ops.norm._definition import Settings


def layer_norm(
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None = None,
    *,
    residual: jax.Array | None = None,
    with_sum: bool = False,
    epsilon: float = 1e-5,
    dtype: jax.typing.DTypeLike | None = None,
    implementation: str = "reference",
) -> Any:
    """Layer norm (s - mean(s)) / sqrt(variance(s) + epsilon) * scale + bias, s = x + residual (arXiv:1607.06450).

    Args:
      x: [..., D], any float dtype.
      scale_D: factor, any float dtype.
      bias_D: added last, or None.
      residual: added to x first, same shape; or None.
      with_sum: whether to return s too. Use it for the residual path: its gradient is then added in the same pass.
      epsilon: added to the variance, in the square of x's unit.
      dtype: dtype of y; None: that of s.
      implementation: 'reference', 'xla' (keeps mean and deviation only), 'cpu' (C++; float32 and bfloat16), 'mosaic'
        (compute capability 9; backward in one pass) or 'triton' (from 8.0 on; both in one pass). All compute in
        float32; the first two compute in float64 for float64, which the others do not support.

    Returns:
      y[..., D], or (y, s) with `with_sum`; s has the promoted dtype of x and residual. Differentiable (once for all
      but the reference).

    Raises:
      ValueError: shapes do not fit, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: it cannot run on this device, or not with this D ('mosaic': in the backward pass).
    """
    settings = Settings(True, epsilon, dtype, with_sum)
    return _norm(settings, x, scale_D, bias_D, residual, implementation)


def rms_norm(
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None = None,
    *,
    residual: jax.Array | None = None,
    with_sum: bool = False,
    epsilon: float = 1e-5,
    dtype: jax.typing.DTypeLike | None = None,
    implementation: str = "reference",
) -> Any:
    """RMS norm s / sqrt(mean(s^2) + epsilon) * scale + bias with s = x + residual (arXiv:1910.07467).

    Arguments, result and errors are those of `layer_norm`.
    """
    settings = Settings(False, epsilon, dtype, with_sum)
    return _norm(settings, x, scale_D, bias_D, residual, implementation)


def _norm(
    settings: Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    residual: jax.Array | None,
    implementation: str,
) -> Any:
    if x.ndim < 1 or any(vector is not None and vector.shape != x.shape[-1:] for vector in (scale_D, bias_D)):
        shapes = x.shape, scale_D.shape, getattr(bias_D, "shape", None)
        raise ValueError(f"need x[..., D], scale[D], bias[D]; got {', '.join(map(str, shapes))}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"need a residual of x's shape {x.shape}; got {residual.shape}")
    s_dtype = x.dtype if residual is None else jnp.promote_types(x.dtype, residual.dtype)
    settings = settings._replace(dtype=jnp.dtype(settings.dtype or s_dtype))
    apply = choose(OP, implementation, x, residual, jax.ShapeDtypeStruct((), settings.dtype))
    y, *s = apply(settings, x, residual, scale_D, bias_D)
    return (y, *s) if settings.with_sum else y
