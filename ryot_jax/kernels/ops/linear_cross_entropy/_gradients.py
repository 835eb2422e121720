"""Custom gradients from a function that computes them, in the forward pass for sums or the backward pass for losses."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import OwnGradient
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms

Losses = Callable[[Terms, jax.Array, jax.Array, jax.Array], jax.Array]
"""Signature of losses: (terms, x_ND, w_VD, targets_N) -> losses_N, or their sum."""

Gradients = Callable[[Terms, jax.Array, jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array]]
"""Signature of gradients: (terms, x_ND, w_VD, targets_N, weights_N or None for ones) -> losses_N, dx_ND, dw_VD."""


class Reductions(NamedTuple):
    """The functions of an implementation, by `reduction`; every implementation has both."""

    sum: Losses
    none: Losses


def with_gradients(losses: Losses, gradients: Gradients) -> Reductions:
    """Both reductions of an implementation with these losses and gradients."""
    return Reductions(_gradients_in_forward(losses, gradients), _gradients_in_backward(losses, gradients))


def _gradients_in_forward(losses: Losses, gradients: Gradients) -> Losses:
    """The sum of the losses; its backward pass only scales gradients computed in the forward pass."""

    @functools.partial(OwnGradient, nondiff_argnums=(0,))
    def op(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        return jnp.sum(losses(terms, x_ND, w_VD, targets_N))

    def forward(
        terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        losses_N, dx_ND, dw_VD = gradients(terms, x_ND, w_VD, targets_N, None)
        return jnp.sum(losses_N), (dx_ND, dw_VD.astype(w_VD.dtype))

    def backward(
        terms: Terms, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array, None]:
        del terms
        dx_ND, dw_VD = saved
        return (cotangent * dx_ND).astype(dx_ND.dtype), (cotangent * dw_VD).astype(dw_VD.dtype), None

    op.defvjp(forward, backward)
    return op


def _gradients_in_backward(losses: Losses, gradients: Gradients) -> Losses:
    """The losses; the backward pass recomputes the logits, as each row has its own cotangent."""
    op = OwnGradient(losses, nondiff_argnums=(0,))

    def forward(
        terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        return losses(terms, x_ND, w_VD, targets_N), (x_ND, w_VD, targets_N)

    def backward(
        terms: Terms, saved: tuple[jax.Array, jax.Array, jax.Array], cotangent_N: jax.Array
    ) -> tuple[jax.Array, jax.Array, None]:
        x_ND, w_VD, targets_N = saved
        _, dx_ND, dw_VD = gradients(terms, x_ND, w_VD, targets_N, cotangent_N)
        return dx_ND, dw_VD.astype(w_VD.dtype), None

    op.defvjp(forward, backward)
    return op
