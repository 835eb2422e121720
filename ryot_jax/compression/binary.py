"""An array as its signs, times one scale a row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.compression.calibration import Moments, as_matrix_shape
from ryot_jax.compression.compressed import Bits, Compressed, register, take_rows
from ryot_jax.compression.quantized import exponents_of, scale_of
from ryot_jax.compression.transforms import Transform, leafwise


@register
@dataclasses.dataclass(frozen=True)
class Binary(Compressed):
    """w = the scale of its row or, where its bit is set, the scale's negative. Rows lie along the last axis.

    Attributes:
      signs: uint8[rows, ceil(elements of a row / 8)], the first element in the lowest bit.
      exponents: int16[rows, 1], of the scales; see `quantized.scale_of`.
      array_shape: of the array.
    """

    signs: jax.Array
    exponents: jax.Array
    array_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array_shape

    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        """The array as signs times scales."""
        return self._rows(self.signs, self.exponents).reshape(self.array_shape).astype(dtype)

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Decodes the rows `ids` alone."""
        if len(self.array_shape) < 2 or not jnp.size(ids):  # unpackbits takes no empty array
            return super().take(ids, dtype)
        signs, exponents = (take_rows(x, self.array_shape[0], ids) for x in (self.signs, self.exponents))
        return self._rows(signs, exponents).reshape(jnp.shape(ids) + self.array_shape[1:]).astype(dtype)

    def bits(self) -> Bits:
        """A bit an element, rows filled up to bytes, and 16 bits a row."""
        return Bits(8 * self.signs.size, 16 * self.exponents.size)

    def _rows(self, signs: jax.Array, exponents: jax.Array) -> jax.Array:
        shape = (*signs.shape[:-1], as_matrix_shape(self.array_shape)[1])
        negative = jnp.unpackbits(signs, axis=-1, count=shape[-1], bitorder="little").astype(bool)
        scale = jnp.broadcast_to(scale_of((exponents,), shape), shape)
        return jnp.where(negative, -scale, scale)


def binary(min_ndim: int = 2) -> Transform:
    """Signs times the mean of |w| over each row, the scale with the least square error (XNOR-Net, arXiv:1603.05279).

    Args:
      min_ndim: arrays with fewer axes are left as they are.
    """

    def fit(w: jax.Array, moments: Moments | None) -> tuple[()] | None:
        return () if jnp.ndim(w) >= min_ndim and jnp.size(w) else None

    def compress(w: jax.Array, state: tuple[()]) -> Binary:
        w_RC = jnp.reshape(w, as_matrix_shape(jnp.shape(w)))
        scale_R1 = jnp.mean(jnp.abs(w_RC).astype(jnp.float32), axis=1, keepdims=True)
        signs = jnp.packbits((w_RC < 0).astype(jnp.uint8), axis=1, bitorder="little")
        return Binary(signs, exponents_of(scale_R1), jnp.shape(w))

    return leafwise(fit, compress)
