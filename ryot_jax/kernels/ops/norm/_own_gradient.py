"""Custom gradients of norms, from statistics kept by the forward pass."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import OwnGradient, cast_gradient, dtype_token, row, rows
from ryot_jax.kernels.ops.norm._definition import Outcome, Settings, centred


def with_own_gradient(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Outcome]:
    """The custom-VJP op of a pair of functions like `_definition.forward` and `backward`."""

    def outcome(settings: Settings, y: jax.Array, s: jax.Array) -> Outcome:
        return (y, s) if settings.with_sum else (y,)

    @functools.partial(OwnGradient, nondiff_argnums=(0,))
    def op(settings: Settings, *operands: jax.Array | None) -> Outcome:
        return outcome(settings, *forward(settings, *operands)[:2])

    def op_forward(
        settings: Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
    ) -> tuple[Outcome, tuple[Any, ...]]:
        y, s, statistics = forward(settings, x, residual, scale_D, bias_D)
        return outcome(settings, y, s), (
            s,
            scale_D,
            statistics,
            dtype_token(x),
            dtype_token(residual),
            dtype_token(bias_D),
        )

    def op_backward(settings: Settings, saved: tuple[Any, ...], cotangents: Outcome) -> tuple[jax.Array | None, ...]:
        s, scale_D, statistics, x, residual, bias = saved
        dy, ds = cotangents if settings.with_sum else (*cotangents, None)
        total, dscale_D, dbias_D = backward(settings, dy, s, scale_D, statistics, ds)
        return (
            cast_gradient(total, x),
            cast_gradient(total, residual),
            dscale_D.astype(scale_D.dtype),
            cast_gradient(dbias_D, bias),
        )

    op.defvjp(op_forward, op_backward)
    return op


def backward(
    settings: Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients with respect to s (including `ds`, that of its other use), scale and bias."""
    mean, inverse = statistics
    normal, dy = centred(s, mean) * inverse, dy.astype(inverse.dtype)
    dnormal = dy * row(scale_D.astype(dy.dtype), dy)
    total = dnormal - normal * jnp.mean(dnormal * normal, axis=-1, keepdims=True)
    if settings.centre:
        total = total - jnp.mean(dnormal, axis=-1, keepdims=True)
    total = total * inverse
    if ds is not None:
        total = total + ds.astype(total.dtype)
    leading = tuple(range(dy.ndim - 1))
    return total, jnp.sum(dy * normal, axis=leading), jnp.sum(dy, axis=leading)


def by_kernel(norm_backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]) -> Callable[..., Any]:
    """A backward pass by a GPU kernel that reads its arrays once."""

    def backward_by_kernel(
        settings: Settings, dy: jax.Array, s: jax.Array, scale_D: jax.Array, statistics: Any, ds: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        if s.size == 0:
            return backward(settings, dy, s, scale_D, statistics, ds)
        mean, inverse = (None if statistic is None else rows(statistic) for statistic in statistics)
        dx_ND, dscale_D, dbias_D = norm_backward(
            rows(dy), rows(s), scale_D, mean, inverse, None if ds is None else rows(ds)
        )
        return dx_ND.reshape(s.shape), dscale_D, dbias_D

    return backward_by_kernel
