"""Position encodings that have no weights: the sinusoidal table and the rotation of queries and keys."""

import jax
import jax.numpy as jnp

_BASE = 10_000.0


def angles(positions: jax.Array, half_width: int) -> jax.Array:
    """Angle of each position in each of `half_width` geometrically falling frequencies, float32[..., half_width]."""
    frequencies = _BASE ** (-jnp.arange(half_width, dtype=jnp.float32) / half_width)
    return jnp.multiply.outer(positions.astype(jnp.float32), frequencies)


def sinusoidal(positions: jax.Array, d_model: int) -> jax.Array:
    """Sines in the first half of the features, cosines in the second, float32[..., D] (arXiv:1706.03762, 3.5)."""
    angles_of = angles(positions, d_model // 2)
    return jnp.concatenate([jnp.sin(angles_of), jnp.cos(angles_of)], axis=-1)


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Rotates feature pairs (i, i + K/2) of queries or keys by their position's angles (RoPE, arXiv:2104.09864).

    The product of a rotated query and key then depends on the distance of their positions alone.
    `positions_BT` is [1, T] where all sequences have the same. Computed in float32, returned in the dtype of `x_BTHK`.
    """
    angles_BT1K = angles(positions_BT, x_BTHK.shape[-1] // 2)[:, :, None]
    cos, sin = jnp.cos(angles_BT1K), jnp.sin(angles_BT1K)
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHK.dtype)
