"""Pallas' Triton dialect: calls, loads and stores of tiles that may extend beyond an array.

Every use of the dialect is in this file: JAX has announced its removal, and its successor shall replace one file. The
kernels are in the folders of their ops. For NVIDIA GPUs from Ampere on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ryot_jax.kernels.gpu import pallas

try:
    from jax.experimental.pallas import triton as dialect
except ImportError:  # removed: `pallas.refusal` reports it, and nothing here is called
    dialect = None  # type: ignore[assignment]

DTYPES = ("float32", "bfloat16", "float16")  # of operands


def call(kernel: Callable[..., None], *, warps: int, stages: int, **options: Any) -> Callable[..., Any]:
    """`pallas_call` of a kernel with `warps` warps per program and `stages` pipeline stages."""
    parameters = dialect.CompilerParams(num_warps=warps, num_stages=stages)
    called: Callable[..., Any] = pl.pallas_call(
        kernel, compiler_params=parameters, interpret=pallas.is_interpreted(), **options
    )
    return called


def unseen_zero(index: jax.Array) -> jax.Array:
    """A zero that jax cannot fold: jax 0.12 refuses a constant start of a tile beyond an array, masked or not."""
    return index * 0


def block_size(length: int, largest: int) -> int:
    """Tile size along an axis: Triton takes powers of two, and at least 16 in products."""
    return min(largest, max(16, pl.next_power_of_2(length)))


def _block(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None]) -> tuple[Any, jax.Array | None]:
    """The view of `ref` at `starts` (size None: an index, no axis of the tile), and the mask of what is inside `ref`.

    Starts inside `ref` are multiples of the sizes: no mask is needed if the sizes divide its shape.
    """
    shape = tuple(size for size in sizes if size is not None)
    index: list[Any] = []
    mask, axis = None, 0
    for start, size, length in zip(starts, sizes, ref.shape, strict=True):
        index.append(start if size is None else pl.ds(start, size))
        if size is None:
            continue
        if length % size:
            inside = start + lax.broadcasted_iota(jnp.int32, shape, axis) < length
            mask = inside if mask is None else mask & inside
        axis += 1
    return ref.at[tuple(index)], mask


def load_block(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None]) -> jax.Array:
    """Load a tile of `ref`, with zeros outside its bounds."""
    view, mask = _block(ref, starts, sizes)
    return dialect.load(view, mask=mask, other=None if mask is None else 0)


def store_block(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None], block: jax.Array) -> None:
    """Write the part of a tile that lies inside `ref`, in the dtype of `ref`."""
    view, mask = _block(ref, starts, sizes)
    dialect.store(view, block.astype(ref.dtype), mask=mask)
