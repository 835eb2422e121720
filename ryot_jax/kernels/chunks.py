"""What the implementations of linear + cross-entropy share: the terms of a loss, and rows in chunks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Terms(NamedTuple):
    """What the loss is made of; the formula is in `linear_cross_entropy`."""

    label_smoothing: float
    z_loss: float
    soft_cap: float | None

    def attributes(self) -> dict[str, np.float32]:
        """The same for a handler."""
        return {name: np.float32(value or 0) for name, value in self._asdict().items()}


def chunks(rows_N: jax.Array, chunk: int, fill: int) -> jax.Array:
    """[N, ...] in chunks [n, C, ...]; the last one filled up with `fill`."""
    missing = -rows_N.shape[0] % chunk
    padding = ((0, missing),) + ((0, 0),) * (rows_N.ndim - 1)
    return jnp.pad(rows_N, padding, constant_values=fill).reshape(-1, chunk, *rows_N.shape[1:])
