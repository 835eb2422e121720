"""The logits of a language model in Pallas' Triton dialect, as a matrix product that ends in exponentials."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.gpu.triton import DTYPES, block_size, call, load_block, store_block
from ryot_jax.kernels.ops.linear_cross_entropy._tiled import TILE_V, Tiles


class ProductBlocks(NamedTuple):
    """Tile sizes of `exponentials`. The defaults' three stages of 32 KiB fit the 99 KiB of shared memory of an L4."""

    rows: int = 128  # rows of x per program
    depth_bytes: int = 128  # bytes of a row of x and of w at a time: a cache line
    group: int = 16  # tiles of rows that share a pass over the vocabulary: x stays in L2, w is read once per group
    warps: int = 8
    stages: int = 3


def exponentials(
    x_CD: jax.Array,
    w_VD: jax.Array,
    *,
    soft_cap: float | None = None,
    write: bool = True,
    blocks: ProductBlocks = ProductBlocks(),  # noqa: B008 (immutable)
) -> Tiles:
    """Exponentials of the logits l = x w^T, or c tanh(x w^T / c) with a soft cap c, without an array of the logits.

    A row's softmax over all n = ceil(V / TILE_V) tiles is exponentials * exp(top - z) with
    z = log(sum_n(sum exp(top))) (Milakov & Gimelshein 2018, arXiv:1805.02867).

    Args:
      x_CD: activations, in float32, bfloat16 or float16.
      w_VD: output embedding, in x's dtype. Products accumulate in float32; those of float32 do not use TF32.
      soft_cap: bound on the size of the logits, or None.
      write: whether to write the exponentials.
      blocks: tile sizes.

    Returns:
      The exponentials in tiles; their sums are without the slope of the soft cap.

    Raises:
      ValueError: shapes do not match, or the soft cap is not positive.
      TypeError: the dtypes differ, or are none of those above.
      NotImplementedError: this device cannot run the kernel.
    """
    pallas.require("triton")
    if x_CD.ndim != 2 or w_VD.ndim != 2 or x_CD.shape[1] != w_VD.shape[1] or 0 in (*x_CD.shape, *w_VD.shape):
        raise ValueError(f"need x[C,D] and w[V,D], none of them empty; got {x_CD.shape}, {w_VD.shape}")
    if x_CD.dtype != w_VD.dtype or x_CD.dtype not in DTYPES:
        raise TypeError(f"need x and w of one dtype of {', '.join(DTYPES)}; got {x_CD.dtype}, {w_VD.dtype}")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"need soft_cap > 0; got {soft_cap}")
    (c, d), v = x_CD.shape, w_VD.shape[0]
    rows, depth = block_size(c, blocks.rows), block_size(d, blocks.depth_bytes // x_CD.dtype.itemsize)
    row_blocks, n = pl.cdiv(c, rows), pl.cdiv(v, TILE_V)
    of_tiles = jax.ShapeDtypeStruct((n, c), jnp.float32)
    kernel = functools.partial(
        _exponentials_kernel, rows=rows, depth=depth, group=min(blocks.group, row_blocks), soft_cap=soft_cap
    )
    top_nC, sum_nC, *written = call(
        kernel,
        out_shape=(of_tiles, of_tiles, *([jax.ShapeDtypeStruct((c, v), x_CD.dtype)] if write else [])),
        grid=(row_blocks * n,),
        warps=blocks.warps,
        stages=blocks.stages,
        name="ryot_linear_cross_entropy",
    )(x_CD, w_VD)
    return Tiles(written[0] if write else None, top_nC, sum_nC)


def _exponentials_kernel(
    x_ref: Any, w_ref: Any, top_ref: Any, sum_ref: Any, *written: Any, rows: int, depth: int, group: int, soft_cap: Any
) -> None:
    (c, d), v = x_ref.shape, w_ref.shape[0]
    row_block, tile = _grouped(pl.program_id(0), pl.cdiv(c, rows), pl.cdiv(v, TILE_V), group)
    row, column = row_block * rows, tile * TILE_V
    precision = lax.Precision.HIGHEST if x_ref.dtype == jnp.float32 else None

    def add_product(i: jax.Array, logits_RT: jax.Array) -> jax.Array:
        x_RK = load_block(x_ref, (row, i * depth), (rows, depth))
        w_TK = load_block(w_ref, (column, i * depth), (TILE_V, depth))
        return logits_RT + lax.dot_general(
            x_RK, w_TK, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
        )

    logits_RT = lax.fori_loop(0, pl.cdiv(d, depth), add_product, jnp.zeros((rows, TILE_V), jnp.float32))
    if soft_cap is not None:
        capped_RT = jnp.tanh(logits_RT / soft_cap)
        logits_RT = soft_cap * capped_RT
    if v % TILE_V:
        logits_RT = jnp.where(column + lax.broadcasted_iota(jnp.int32, (rows, TILE_V), 1) < v, logits_RT, -jnp.inf)
    top_R = jnp.max(logits_RT, axis=1)
    exponentials_RT = jnp.exp(logits_RT - top_R[:, None])
    store_block(top_ref, (tile, row), (None, rows), top_R)
    store_block(sum_ref, (tile, row), (None, rows), jnp.sum(exponentials_RT, axis=1))
    for ref in written:
        if soft_cap is not None:
            exponentials_RT = exponentials_RT * (1 - jnp.square(capped_RT))
        store_block(ref, (row, column), (rows, TILE_V), exponentials_RT)


def _grouped(program: jax.Array, rows: int, columns: int, group: int) -> tuple[jax.Array, jax.Array]:
    """The tile (row, column) of a program: programs run down a group of rows, then proceed to the next column."""
    first = program // (group * columns) * group
    height = jnp.minimum(rows - first, group)
    place = program % (group * columns)
    return first + place % height, place // height
