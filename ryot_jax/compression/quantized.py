"""An array as integer codes times scales, and the rounding that finds them.

A scale is a power of two to the k / `PER_OCTAVE`, so that it takes a small integer: a grid that is a few per cent finer
or coarser than the best costs next to nothing, as the loss is flat there. As in `packing`, NumPy's arrays stay NumPy's.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.compressed import Bits, Compressed, register
from ryot_jax.compression.packing import module_of, pack, unpack

MAX_BITS = 16
PER_OCTAVE = 8


@register
@dataclasses.dataclass(frozen=True)
class Quantized(Compressed):
    """w = (code - offset) * product of 2^(exponent / PER_OCTAVE) over the scales.

    Attributes:
      codes: uint8, packed; from 0 to 2^n_bits - 1, of every element in row-major order.
      exponents: int16 arrays with as many axes as the array. An axis of length s stands for one of length n in pieces
        of ceil(n / s): [E, 1] holds one scale a row, [E, 4] one for each quarter of a row.
      array_shape: of the array.
      n_bits: width of a packed code.
      offset: the code of zero; halves, such as 1.5 for codes 0 to 3, have none.
    """

    codes: Any
    exponents: tuple[Any, ...]
    array_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    n_bits: int = dataclasses.field(metadata={"static": True})
    offset: float = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array_shape

    def integers(self) -> Any:
        """The codes, uint16 of the array's shape."""
        return unpack(self.codes, self.n_bits, math.prod(self.array_shape)).reshape(self.array_shape)

    def decode(self, dtype: Any = jnp.float32) -> Any:
        """Codes times scales, the product in float32."""
        return (self._levels(self.integers()) * scale_of(self.exponents, self.array_shape)).astype(dtype)

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Decodes the rows `ids` alone."""
        scale = jnp.broadcast_to(scale_of(self.exponents, self.array_shape), self.array_shape)
        levels = self._levels(jnp.take(jnp.asarray(self.integers()), ids, axis=0))
        return (levels * jnp.take(scale, ids, axis=0)).astype(dtype)

    def bits(self) -> Bits:
        """Bits of the packed codes, and 16 bits per scale."""
        return Bits(8 * self.codes.size, 16 * sum(exponents.size for exponents in self.exponents))

    def _levels(self, codes: Any) -> Any:
        return codes.astype(np.float32) - np.float32(self.offset)


def quantized(codes: Any, exponents: Sequence[Any], n_bits: int, offset: float) -> Quantized:
    """Packs codes, integers from 0 to 2^n_bits - 1 of the array's shape; see `Quantized`."""
    fixed = tuple(e.astype(np.int16) for e in exponents)
    return Quantized(pack(codes, n_bits), fixed, tuple(np.shape(codes)), n_bits, float(offset))


def narrowed(codes: np.ndarray, exponents: Sequence[Any], offset: int) -> Quantized:
    """Packs codes like `quantized`, in the fewest bits that hold their range, which is at most 16 bits wide."""
    lowest = int(codes.min(initial=offset))
    n_bits = max(1, int(codes.max(initial=offset) - lowest).bit_length())
    return quantized(codes - lowest, exponents, n_bits, offset - lowest)


def nearest(w: Any, exponents: Sequence[Any], n_bits: int, offset: float) -> Any:
    """The codes whose values lie nearest to w, within their range: uint16 of its shape."""
    xp, scaled = module_of(w, *exponents), w / scale_of(exponents, w.shape) + np.float32(offset)
    return xp.clip(xp.round(scaled), 0, 2**n_bits - 1).astype(np.uint16)


def exponents_of(scale: Any, resolution: int = 1) -> Any:
    """Exponents of the powers nearest to positive scales: multiples of `resolution`, int16."""
    xp = module_of(scale)
    octaves = xp.log2(xp.maximum(xp.asarray(scale, np.float32), np.finfo(np.float32).tiny))
    return (resolution * xp.round(PER_OCTAVE / resolution * octaves)).astype(np.int16)


def scale_of(exponents: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """The product of all scales: float32 that broadcasts to `shape`."""
    scale = np.ones((1,) * len(shape), np.float32)
    for e in exponents:
        scale = scale * spread(_power(e.astype(np.int32)), shape)
    return scale


def _power(exponents: Any) -> Any:
    """2^(exponent / PER_OCTAVE) in float32.

    From a table, so that every program gives the same bits; compilers differ in the last bit of an exp2. In 16 bits, so
    that a product with a level of 8 bits is exact, and a sum is the same whether or not it is fused with it.
    """
    xp = module_of(exponents)
    mantissas = xp.asarray(np.round(2.0 ** (15 + np.arange(PER_OCTAVE) / PER_OCTAVE)) / 2.0**15, np.float32)
    return xp.ldexp(mantissas[exponents % PER_OCTAVE], exponents // PER_OCTAVE)


def spread(scale: Any, shape: tuple[int, ...]) -> Any:
    """Repeats each entry over the elements that it stands for; axes of length 1 stay, as they broadcast."""
    for axis, n in enumerate(shape):
        entries = scale.shape[axis]
        if entries not in (1, n):
            scale = module_of(scale).repeat(scale, math.ceil(n / entries), axis=axis)
            scale = scale[(slice(None),) * axis + (slice(n),)]
    return scale
