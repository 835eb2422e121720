"""Position encodings that have no weights: the sinusoidal table and the rotation of queries and keys."""

import jax
import jax.numpy as jnp

_BASE = 10_000.0


def _angles(positions_T: jax.Array, half_width: int) -> jax.Array:
    """Angle of each position in each of `half_width` geometrically falling frequencies, float32[T, half_width]."""
    frequencies = _BASE ** (-jnp.arange(half_width, dtype=jnp.float32) / half_width)
    return positions_T.astype(jnp.float32)[:, None] * frequencies[None]


def sinusoidal(positions_T: jax.Array, d_model: int) -> jax.Array:
    """Sines in the first half of the features, cosines in the second, float32[T, D] (arXiv:1706.03762, 3.5)."""
    angles = _angles(positions_T, d_model // 2)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rotate(x_BTHK: jax.Array, positions_T: jax.Array) -> jax.Array:
    """Rotate feature pairs (i, i + K/2) of queries or keys by their position's angles (RoPE, arXiv:2104.09864).

    The product of a rotated query and key then depends on the distance of their positions alone.
    Computed in float32, returned in the dtype of `x_BTHK`.
    """
    angles = _angles(positions_T, x_BTHK.shape[-1] // 2)[None, :, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHK.dtype)
