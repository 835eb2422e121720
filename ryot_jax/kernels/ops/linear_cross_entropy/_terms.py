"""Terms of the loss, and division of rows into chunks, shared by the implementations of the op."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Terms(NamedTuple):
    """Settings of the loss; the formula is in `linear_cross_entropy`."""

    label_smoothing: float
    z_loss: float
    soft_cap: float | None

    def attributes(self) -> dict[str, Any]:
        """The attributes of a C++ handler that say the same."""
        return {name: np.float32(value or 0) for name, value in self._asdict().items()}


_BLOCK_ROWS = 256  # divisor of a chunk's rows: the rows of a GPU kernel's tile


def chunk_rows(n_rows: int, most: int) -> int:
    """The number of rows of a chunk, at most `most` and at least `_BLOCK_ROWS`; all rows if there are no more.

    Chunks that divide the rows are preferred, down to half of `most`: padding rows in the last chunk cost as much as
    others (32,768 rows with a vocabulary of 128,256 took 110 ms in 11 chunks on an H200, and 101 in 16).
    """
    most = max(most // _BLOCK_ROWS, 1) * _BLOCK_ROWS
    fewest = -(-n_rows // most)
    if fewest <= 1:
        return max(n_rows, 1)
    for n_chunks in range(fewest, 2 * fewest + 1):
        if n_rows % (n_chunks * _BLOCK_ROWS) == 0:
            return n_rows // n_chunks
    return -(-n_rows // (fewest * _BLOCK_ROWS)) * _BLOCK_ROWS


def chunks(rows_N: jax.Array, chunk: int, fill: int) -> jax.Array:
    """Split [N, ...] into chunks [n, C, ...], the last one padded with `fill`."""
    missing = -rows_N.shape[0] % chunk
    padding = ((0, missing),) + ((0, 0),) * (rows_N.ndim - 1)
    return jnp.pad(rows_N, padding, constant_values=fill).reshape(-1, chunk, *rows_N.shape[1:])
