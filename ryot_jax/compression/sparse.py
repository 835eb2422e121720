"""An array of which some elements are kept and all others are zero: N of every M, or the k most important of a row."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.calibration import Moments, as_matrix_shape
from ryot_jax.compression.compressed import Bits, Compressed, decode, memory_bits, register, take_rows
from ryot_jax.compression.feedback import factor
from ryot_jax.compression.transforms import Transform, leafwise


@register
@dataclasses.dataclass(frozen=True)
class Sparse(Compressed):
    """The kept elements of each row, and where in it they are.

    An array is seen as rows along its last axis, and each row as groups of `group` elements, of which the last may be
    shorter. Of every group `kept` elements are kept; all, if there are no more.

    Attributes:
      values: [rows, kept in a row], in the order of the row; an array or compressed itself.
      positions: uint8[rows, bytes]. Where that is no larger, the kept elements' numbers within their groups, in
        ceil(log2(group)) bits each; else a bit for each element of the row, set if it is kept.
      array_shape: of the array.
      kept: elements of a group that are kept.
      group: elements of a group.
    """

    values: Any
    positions: jax.Array
    array_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    kept: int = dataclasses.field(metadata={"static": True})
    group: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array_shape

    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        """The array with the kept elements in their places and zeros elsewhere."""
        return self._rows(decode(self.values), self.positions).reshape(self.array_shape).astype(dtype)

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Decodes the rows `ids` alone."""
        if len(self.array_shape) < 2 or not jnp.size(ids):  # unpackbits takes no empty array
            return super().take(ids, dtype)
        values, positions = (take_rows(x, self.array_shape[0], ids) for x in (self.values, self.positions))
        return self._rows(values, positions).reshape(jnp.shape(ids) + self.array_shape[1:]).astype(dtype)

    def bits(self) -> Bits:
        """Bits of the values as payload, and of their positions as side information."""
        values = memory_bits(self.values)
        return Bits(values.payload, values.side + 8 * self.positions.size)

    def _rows(self, values: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows [.., elements] of values [.., kept in a row] and positions [.., bytes]; float32."""
        n_columns = as_matrix_shape(self.array_shape)[1]
        values = values.astype(jnp.float32)
        if width := _index_bits(n_columns, self.kept, self.group):
            columns = _unpack_indices(positions, width, n_columns, self.kept, self.group)
            zeros = jnp.zeros((*values.shape[:-1], n_columns), jnp.float32)
            return jnp.put_along_axis(zeros, columns, values, axis=-1, inplace=False)
        kept = jnp.unpackbits(positions, axis=-1, count=n_columns, bitorder="little").astype(bool)
        numbers = jnp.maximum(jnp.cumsum(kept, axis=-1, dtype=jnp.int32) - 1, 0)
        return jnp.where(kept, jnp.take_along_axis(values, numbers, axis=-1), 0)


def prune(
    *,
    n: int | None = None,
    m: int | None = None,
    top_k: int | None = None,
    damping: float = 0.05,
    min_ndim: int = 2,
) -> Transform:
    """Keeps n of every m consecutive elements along the last axis, or `top_k` of each row, and makes the others zero.

    It keeps those that are largest in |w_ij| sqrt(h_ij), h_ij the second derivative of the loss by the element
    (`Moments.sensitivity`) if there are stats: what optimal brain damage (LeCun et al. 1990) would keep, and Wanda
    (arXiv:2306.11695). Without stats it is the magnitude. Rows with too few elements to lose any are left as they are.

    Args:
      n: of a group that are kept; at least 1.
      m: elements of a group; more than n. Where m does not divide the axis, the last group is smaller.
      top_k: in their place, elements of a row that are kept; at least 1.
      damping: see `feedback.factor`.
      min_ndim: arrays with fewer axes are left as they are.

    Raises:
      ValueError: neither or both are given, or a number is out of range.
    """
    if (n is None) != (m is None) or (n is None) == (top_k is None):
        raise ValueError(f"n = {n}, m = {m}, top_k = {top_k}: give n and m, or top_k")
    if n is not None and m is not None and not 1 <= n < m:
        raise ValueError(f"n = {n}, m = {m}: must be 1 <= n < m")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}: must be at least 1")

    def kept_and_group(columns: int) -> tuple[int, int]:
        return (n, m) if n is not None and m is not None else (top_k or 0, columns)

    def fit(w: jax.Array, moments: Moments | None) -> tuple[np.ndarray, ...] | None:
        columns = as_matrix_shape(jnp.shape(w))[1]
        if jnp.ndim(w) < min_ndim or columns <= kept_and_group(columns)[0] or not jnp.size(w):
            return None
        # h_ij = R_ii C_jj / tr(R): elements of one row differ by C alone.
        return () if moments is None else (np.sqrt(factor(moments, damping, sides="none").columns_D),)

    def compress(w: jax.Array, weights: tuple[jax.Array, ...]) -> Sparse:
        rows, columns = as_matrix_shape(jnp.shape(w))
        kept, group = kept_and_group(columns)
        w_RC = jnp.reshape(w, (rows, columns))
        weight_1C = jnp.asarray(weights[0] if weights else jnp.ones(columns), jnp.float32)[None]
        columns_RK = _most_important(jnp.abs(w_RC).astype(jnp.float32) * weight_1C, kept, group)
        values = jnp.take_along_axis(w_RC, columns_RK, axis=1)
        return Sparse(values, _pack_positions(columns_RK, columns, kept, group), jnp.shape(w), kept, group)

    return leafwise(fit, compress)


def _most_important(importance_RC: jax.Array, kept: int, group: int) -> jax.Array:
    """Columns, ascending, of the elements to keep of each row: int32[R, kept in a row]."""
    rows, columns = importance_RC.shape
    groups = math.ceil(columns / group)
    padded = jnp.pad(importance_RC, ((0, 0), (0, groups * group - columns)), constant_values=-1)
    _, numbers = jax.lax.top_k(padded.reshape(rows, groups, group), kept)
    first = group * jnp.arange(groups)[None, :, None]
    # What fills up a last group with fewer elements than are kept is larger than all that there are.
    return (first + jnp.sort(numbers, axis=-1)).reshape(rows, -1)[:, : _kept_in_row(columns, kept, group)]


def _kept_in_row(columns: int, kept: int, group: int) -> int:
    return columns // group * kept + min(columns % group, kept)


def _index_bits(columns: int, kept: int, group: int) -> int:
    """Bits of an element's number within its group; 0: a bit for each element of the row takes less."""
    width = (group - 1).bit_length()
    return width if width * _kept_in_row(columns, kept, group) <= columns else 0


def _pack_positions(columns_RK: jax.Array, columns: int, kept: int, group: int) -> jax.Array:
    rows = len(columns_RK)
    if width := _index_bits(columns, kept, group):
        bits = (columns_RK[:, :, None] % group >> jnp.arange(width)[None, None]) & 1
        return jnp.packbits(bits.reshape(rows, -1).astype(jnp.uint8), axis=1, bitorder="little")
    kept_RC = jnp.zeros((rows, columns), jnp.uint8).at[jnp.arange(rows)[:, None], columns_RK].set(1)
    return jnp.packbits(kept_RC, axis=1, bitorder="little")


def _unpack_indices(positions: jax.Array, width: int, columns: int, kept: int, group: int) -> jax.Array:
    leading, in_row = positions.shape[:-1], _kept_in_row(columns, kept, group)
    bits = jnp.unpackbits(positions, axis=-1, count=in_row * width, bitorder="little").astype(jnp.int32)
    numbers = jnp.sum(bits.reshape(*leading, in_row, width) << _along_last(np.arange(width), bits.ndim + 1), axis=-1)
    return numbers + _along_last(group * (np.arange(in_row) // kept), bits.ndim)


def _along_last(x: np.ndarray, ndim: int) -> np.ndarray:
    return x.reshape((1,) * (ndim - 1) + x.shape)
