"""The size of arrays under the lossless coders of Python's standard library, to compare lossy compression with."""

import bz2
import lzma
import zlib
from collections.abc import Callable

import jax
import numpy as np

from ryot_jax.compression.compressed import PyTree


def smallest(params: PyTree) -> tuple[int, str]:
    """Bytes of all arrays under the best of zlib, bz2 and lzma, and its name.

    The bytes of equal significance are put together first, as exponents resemble each other and mantissas do not.
    """
    planes = b"".join(
        np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes()
        for array in map(np.asarray, jax.tree.leaves(params))
        if array.size
    )
    coders: dict[str, Callable[[bytes], bytes]] = {"zlib": zlib.compress, "bz2": bz2.compress, "lzma": lzma.compress}
    return min((len(code(planes)), name) for name, code in coders.items())
