"""Dropout by `jax.random`'s Bernoulli draws, one integer per element."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation


def _reference(rate: float, key: jax.Array, x: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


IMPLEMENTATION = Implementation(function=_reference, is_compiled_by_xla=True)
