"""Codes of 1 to 16 bits packed into bytes without gaps, and unpacked again within a compiled program.

Eight codes of b bits fill b bytes. They are not neighbours but a plane's length apart, as are their bytes, so that a
vector unit unpacks many groups of eight at once: with codes side by side, XLA:CPU takes ten times as long. Of codes of
more than eight bits, the low eight are bytes of their own.

Arrays of NumPy are worked on by NumPy, with the same bits: a search over many settings would compile for each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLANES = 8
_WORD = 32  # bits


def module_of(*arrays: Any) -> Any:
    """`jax.numpy` if one of the arrays is JAX's, else `numpy`."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def pack(codes: Any, bits: int) -> Any:
    """Packs integers of `bits` bits each into uint8[ceil(n / 8) * bits].

    Of more than eight bits they take n + ceil(n / 8) * (bits - 8) bytes.

    Args:
      codes: any shape, n numbers from 0 to 2^bits - 1.
      bits: 1 to 16.
    """
    _check(bits)
    xp = module_of(codes)
    codes_n = xp.ravel(codes).astype(np.uint16)
    if bits > 8:
        return xp.concatenate([(codes_n & 255).astype(np.uint8), pack(codes_n >> 8, bits - 8)])
    codes_PG = xp.pad(codes_n, (0, -codes_n.size % _PLANES)).reshape(_PLANES, -1)
    bits_PbG = (codes_PG[:, None] >> np.arange(bits, dtype=np.uint16)[None, :, None]) & 1
    return xp.packbits(bits_PbG.reshape(bits, 8, -1).astype(np.uint8), axis=1, bitorder="little").reshape(-1)


def unpack(packed: Any, bits: int, size: int) -> Any:
    """The first `size` codes of what `pack` made: uint16[size]."""
    _check(bits)
    if bits > 8:
        return packed[:size].astype(np.uint16) | (unpack(packed[size:], bits - 8, size) << 8)
    bytes_bG = packed.reshape(bits, -1).astype(np.uint32)
    low_G, high_G = (_word(bytes_bG[start : start + 4]) for start in (0, 4))
    first_P = bits * np.arange(_PLANES)
    # A code begins in the low word and may end in the high one, or lies in the high one; no shift is by a whole word.
    codes_PG = _where(first_P < _WORD, low_G[None] >> _shift(first_P))
    if bits > 4:
        crosses = (first_P < _WORD) & (first_P + bits > _WORD)
        codes_PG = codes_PG | _where(crosses, high_G[None] << _shift(_WORD - first_P))
        codes_PG = codes_PG | _where(first_P >= _WORD, high_G[None] >> _shift(first_P - _WORD))
    return (codes_PG & (2**bits - 1)).reshape(-1)[:size].astype(np.uint16)


def _word(bytes_iG: Any) -> Any:
    """Up to four planes of bytes as one of words, the first in the lowest bits."""
    word_G = module_of(bytes_iG).zeros(bytes_iG.shape[1:], np.uint32)
    for i in range(len(bytes_iG)):
        word_G = word_G | (bytes_iG[i] << (8 * i))
    return word_G


def _shift(by_P: np.ndarray) -> np.ndarray:
    return np.clip(by_P, 0, _WORD - 1).astype(np.uint32)[:, None]


def _where(used_P: np.ndarray, codes_PG: Any) -> Any:
    return codes_PG & np.where(used_P, np.uint32(0xFFFFFFFF), np.uint32(0))[:, None]


def _check(bits: int) -> None:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits = {bits}: a code has 1 to 16 bits")
