"""LayerNorm and RMSNorm over the last axis, with the addition of a residual in front.

All but the reference keep two numbers a row for the backward pass, where automatic differentiation of the reference
keeps arrays; the gradient of the sum's other use (the residual path) is added inside the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.gpu import triton
from ryot_jax.kernels.operands import accumulator, choose, gradient, operand, row, rows, stub
from ryot_jax.kernels.ops.norm import mosaic as mosaic_norm


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
    """The norm (s - mean(s)) / sqrt(variance(s) + epsilon) * scale + bias with s = x + residual (arXiv:1607.06450).

    Args:
      x: [..., D], any float dtype.
      scale_D: factor, any float dtype.
      bias_D: summand, or None.
      residual: added to x in front, same shape; or None.
      with_sum: return s too. Use it for the residual path: its gradient is then added in the same pass.
      epsilon: added to the variance, in the square of x's unit.
      dtype: of y; None: that of s.
      implementation: 'reference', 'xla' (keeps mean and deviation only), 'cpu' (C++; float32 and bfloat16), 'mosaic'
        (compute capability 9; backward in one pass) or 'triton' (from 8.0 on; both in one pass). All compute in
        float32, the first two in float64 for float64, which the others do not take.

    Returns:
      y[..., D], or (y, s) with `with_sum`; s has the promoted dtype of x and residual. Differentiable (once for all
      but the reference).

    Raises:
      ValueError: shapes do not fit, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: it cannot run on this device, or not with this D ('mosaic': in the backward pass).
    """
    settings = _Settings(True, epsilon, dtype, with_sum)
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
    """The norm s / sqrt(mean(s^2) + epsilon) * scale + bias with s = x + residual (arXiv:1910.07467).

    Arguments, outcome and errors are those of `layer_norm`.
    """
    settings = _Settings(False, epsilon, dtype, with_sum)
    return _norm(settings, x, scale_D, bias_D, residual, implementation)


class _Settings(NamedTuple):
    centre: bool
    epsilon: float
    dtype: Any  # of y
    with_sum: bool


_Outcome = tuple[jax.Array, ...]  # y, and s with `with_sum`


def _norm(
    settings: _Settings,
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
    apply = choose(_IMPLEMENTATIONS, implementation, x, residual, jax.ShapeDtypeStruct((), settings.dtype))
    y, *s = apply(settings, x, residual, scale_D, bias_D)
    return (y, *s) if settings.with_sum else y


def _centred(s: jax.Array, mean: jax.Array | None) -> jax.Array:
    s = s.astype(accumulator(s.dtype))
    return s if mean is None else s - mean


def _xla_forward(
    settings: _Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array, Any]:
    """y, s and what the backward pass needs beside s."""
    s = x if residual is None else x + residual
    mean = jnp.mean(_centred(s, None), axis=-1, keepdims=True) if settings.centre else None
    centred = _centred(s, mean)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + settings.epsilon)
    y = centred * inverse * row(scale_D.astype(centred.dtype), centred)
    if bias_D is not None:
        y = y + row(bias_D.astype(y.dtype), y)
    return y.astype(settings.dtype), s, (mean, inverse)


def _reference(
    settings: _Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> _Outcome:
    return _xla_forward(settings, x, residual, scale_D, bias_D)[:2]


def _xla_backward(
    settings: _Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients with respect to s (its other use's gradient `ds` included), scale and bias."""
    mean, inverse = statistics
    normal, dy = _centred(s, mean) * inverse, dy.astype(inverse.dtype)
    dnormal = dy * row(scale_D.astype(dy.dtype), dy)
    total = dnormal - normal * jnp.mean(dnormal * normal, axis=-1, keepdims=True)
    if settings.centre:
        total = total - jnp.mean(dnormal, axis=-1, keepdims=True)
    total = total * inverse
    if ds is not None:
        total = total + ds.astype(total.dtype)
    leading = tuple(range(dy.ndim - 1))
    return total, jnp.sum(dy * normal, axis=leading), jnp.sum(dy, axis=leading)


def _cpu_forward(
    settings: _Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
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
        operand(None if residual is None else rows(residual)),
        scale_D.astype(jnp.float32),
        operand(bias_D, jnp.float32),
        epsilon=np.float32(settings.epsilon),
        centre=np.int64(settings.centre),
    )
    return y_ND.reshape(x.shape), x if residual is None else s_ND.reshape(x.shape), statistics_N2


def _cpu_backward(
    settings: _Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    s_ND = rows(s)
    in_place = 1 if ds is None else 4 if ds.dtype == s.dtype else None  # the operand that dx may take the memory of
    vector = jax.ShapeDtypeStruct(scale_D.shape, jnp.float32)
    dx_ND, dscale_D, dbias_D = cpu.call_in_place(
        "ryot_norm_backward",
        (jax.ShapeDtypeStruct(s_ND.shape, s.dtype), vector, vector),
        {} if in_place is None else {in_place: 0},
        rows(dy),
        s_ND,
        scale_D.astype(jnp.float32),
        statistics,
        operand(None if ds is None else rows(ds)),
        centre=np.int64(settings.centre),
    )
    return dx_ND.reshape(s.shape), dscale_D, dbias_D


def _pallas_backward(norm_backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]) -> Callable[..., Any]:
    """The backward pass by a kernel of a GPU, which reads its arrays once."""

    def backward(
        settings: _Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        if s.size == 0:
            return _xla_backward(settings, dy, s, scale_D, statistics, ds)
        mean, inverse = (None if statistic is None else rows(statistic) for statistic in statistics)
        dx_ND, dscale_D, dbias_D = norm_backward(
            rows(dy), rows(s), scale_D, mean, inverse, None if ds is None else rows(ds)
        )
        return dx_ND.reshape(s.shape), dscale_D, dbias_D

    return backward


def _triton_forward(
    settings: _Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array, Any]:
    if x.size == 0:
        return _xla_forward(settings, x, residual, scale_D, bias_D)
    y_ND, s_ND, mean_N1, inverse_N1 = triton.norm_forward(
        rows(x),
        None if residual is None else rows(residual),
        scale_D,
        bias_D,
        centre=settings.centre,
        epsilon=settings.epsilon,
        dtype=settings.dtype,
    )
    return y_ND.reshape(x.shape), s_ND.reshape(x.shape), (mean_N1, inverse_N1)


def _with_own_gradient(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., _Outcome]:
    """The custom-VJP op of a pair like `_xla_forward` and `_xla_backward`."""

    def outcome(settings: _Settings, y: jax.Array, s: jax.Array) -> _Outcome:
        return (y, s) if settings.with_sum else (y,)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def op(settings: _Settings, *operands: jax.Array | None) -> _Outcome:
        return outcome(settings, *forward(settings, *operands)[:2])

    def op_forward(
        settings: _Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
    ) -> tuple[_Outcome, tuple[Any, ...]]:
        y, s, statistics = forward(settings, x, residual, scale_D, bias_D)
        return outcome(settings, y, s), (s, scale_D, statistics, stub(x), stub(residual), stub(bias_D))

    def op_backward(settings: _Settings, saved: tuple[Any, ...], cotangents: _Outcome) -> tuple[jax.Array | None, ...]:
        s, scale_D, statistics, x, residual, bias = saved
        dy, ds = cotangents if settings.with_sum else (*cotangents, None)
        total, dscale_D, dbias_D = backward(settings, dy, s, scale_D, statistics, ds)
        return gradient(total, x), gradient(total, residual), dscale_D.astype(scale_D.dtype), gradient(dbias_D, bias)

    op.defvjp(op_forward, op_backward)
    return op


_IMPLEMENTATIONS: dict[str, Callable[..., _Outcome]] = {
    "reference": _reference,
    "xla": _with_own_gradient(_xla_forward, _xla_backward),
    "cpu": _with_own_gradient(_cpu_forward, _cpu_backward),
    "mosaic": _with_own_gradient(_xla_forward, _pallas_backward(mosaic_norm.norm_backward)),
    "triton": _with_own_gradient(_triton_forward, _pallas_backward(triton.norm_backward)),
}
