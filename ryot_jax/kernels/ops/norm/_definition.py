"""The definition of the norms, which XLA differentiates for the reference."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import accumulator, row


class Settings(NamedTuple):
    """Static settings of a norm: a layer norm subtracts the mean (`centre`), an RMS norm does not."""

    centre: bool
    epsilon: float
    dtype: Any  # of y
    with_sum: bool


Outcome = tuple[jax.Array, ...]
"""The result of a norm: y, and s with `with_sum`."""


def centred(s: jax.Array, mean: jax.Array | None) -> jax.Array:
    """The difference s - mean, in the dtype of sums."""
    s = s.astype(accumulator(s.dtype))
    return s if mean is None else s - mean


def forward(
    settings: Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array, Any]:
    """The norm y, the sum s, and the rows' statistics (mean or None, inverse deviation) for a backward pass."""
    s = x if residual is None else x + residual
    mean = jnp.mean(centred(s, None), axis=-1, keepdims=True) if settings.centre else None
    centred_s = centred(s, mean)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred_s), axis=-1, keepdims=True) + settings.epsilon)
    y = centred_s * inverse * row(scale_D.astype(centred_s.dtype), centred_s)
    if bias_D is not None:
        y = y + row(bias_D.astype(y.dtype), y)
    return y.astype(settings.dtype), s, (mean, inverse)
