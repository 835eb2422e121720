"""The logits of a language model on Hopper GPUs, as a matrix product that ends in exponentials.

It writes the exponentials, and one top and one sum per row and tile of the vocabulary: half the bytes of float32
logits, written once, with a rounding error that is relative. Their use is left to `_tiled`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.linear_cross_entropy._tiled import TILE_V, Tiles

_COMPUTE_GROUPS = 2  # computing warpgroups; one more loads
_WRITE_V = 64  # columns written at once
_STEP_D = 64  # columns per step: one row of the widest swizzle
_DELAY = 1  # steps before a tile is released: a product is under way while the next one is issued


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tile sizes of the kernel.

    Attributes:
      rows: rows of a warpgroup's tile, whose width is `TILE_V`; a multiple of 64.
      steps: number of tiles of x and w held in shared memory.
      cluster: number of neighbouring blocks along the vocabulary that share their loads of x.
    """

    rows: int
    steps: int
    cluster: int


def exponentials(
    x_CD: jax.Array,
    w_VD: jax.Array,
    *,
    soft_cap: float | None = None,
    write: bool = True,
    blocks: Blocks | None = None,
) -> Tiles:
    """Exponentials exp(l - top) of the logits l_cv = x_c . w_v, or c tanh(x_c . w_v / c) with a soft cap c, in tiles.

    Args:
      x_CD: activations, bfloat16 or float16.
      w_VD: output embedding, of x's dtype.
      soft_cap: bound on the size of the logits, or None.
      write: whether to write the exponentials, or only tops and sums.
      blocks: tile sizes; None: those that suit the shapes.

    Returns:
      The exponentials in tiles of `TILE_V` columns, with tops and sums.

    Raises:
      TypeError: the dtypes differ, or are neither bfloat16 nor float16.
      NotImplementedError: this machine has no Hopper GPU.
    """
    pallas.require("mosaic")
    if x_CD.dtype not in (jnp.bfloat16, jnp.float16) or w_VD.dtype != x_CD.dtype:
        raise TypeError(f"need x and w in bfloat16 or float16, both alike; got {x_CD.dtype} and {w_VD.dtype}")
    blocks = _blocks(x_CD.shape[1]) if blocks is None else blocks
    # The copy engine reads zeros beyond an array and writes nothing there, but counts in whole tiles of its own.
    multiple_C, multiple_V = 8, _WRITE_V
    if pallas.is_interpreted():  # the interpreter supports neither that nor clusters
        blocks = dataclasses.replace(blocks, cluster=1)
        multiple_C, multiple_V = _COMPUTE_GROUPS * blocks.rows, TILE_V
    n_rows, n_columns = x_CD.shape[0], w_VD.shape[0]
    x_CD, w_VD = _padded(x_CD, multiple_C), _padded(w_VD, multiple_V)
    tiles = _kernel(x_CD, w_VD, n_columns, soft_cap, write, blocks)
    n = pl.cdiv(n_columns, TILE_V)
    written = None if tiles.exponentials_CV is None else tiles.exponentials_CV[:n_rows, :n_columns]
    return Tiles(written, tiles.top_nC[:n, :n_rows], tiles.sum_nC[:n, :n_rows])


def _blocks(d_model: int) -> Blocks:
    """The fastest tile sizes measured on an H200, with 8,192 x 768 x 50,304 and 4,096 x 2,560 x 128,256."""
    return Blocks(rows=64, steps=5, cluster=1) if d_model <= 1024 else Blocks(rows=128, steps=3, cluster=2)


def _padded(rows: jax.Array, multiple: int) -> jax.Array:
    """Pad rows to a multiple and columns to whole steps, at least two, as each waits for the next; with zeros."""
    missing = -rows.shape[0] % multiple, max(-rows.shape[1] % _STEP_D, 2 * _STEP_D - rows.shape[1])
    return jnp.pad(rows, ((0, missing[0]), (0, missing[1]))) if any(missing) else rows


def _pipeline(body: Any, context: Any, *, steps: int, blocks: Blocks, flip: bool) -> Any:
    """A pipeline over D that loads tiles of x and w in a separate warpgroup and calls `body` with each pair."""
    block_rows = _COMPUTE_GROUPS * blocks.rows
    transforms = plgpu.TilingTransform((8, _STEP_D)), plgpu.SwizzleTransform(128)
    return plgpu.emit_pipeline_warp_specialized(
        body,
        grid=(steps,),
        memory_registers=40,
        in_specs=[
            plgpu.BlockSpec(
                (block_rows, _STEP_D),
                lambda k: (0, k),
                transforms=transforms,
                delay_release=_DELAY,
                collective_axes=("cluster",) if blocks.cluster > 1 else (),
            ),
            plgpu.BlockSpec(
                (_STEP_D, TILE_V) if flip else (TILE_V, _STEP_D),
                (lambda k: (k, 0)) if flip else (lambda k: (0, k)),
                transforms=transforms,
                delay_release=_DELAY,
            ),
        ],
        wg_axis="group",
        num_compute_wgs=_COMPUTE_GROUPS,
        max_concurrent_steps=min(blocks.steps, steps),
        compute_context=context,
    )


def _kernel(
    x_CD: jax.Array, w_VD: jax.Array, n_columns: int, soft_cap: float | None, write: bool, blocks: Blocks
) -> Tiles:
    (C, D), V, dtype = x_CD.shape, w_VD.shape[0], x_CD.dtype
    block_rows = _COMPUTE_GROUPS * blocks.rows
    n_row_blocks, n_column_blocks = pl.cdiv(C, block_rows), pl.cdiv(V, TILE_V * blocks.cluster)
    transforms = plgpu.TilingTransform((8, _STEP_D)), plgpu.SwizzleTransform(128)
    flip = pallas.is_interpreted()  # jax 0.10.2's interpreter does not multiply by a transposed operand
    pipeline = functools.partial(_pipeline, steps=D // _STEP_D, blocks=blocks, flip=flip)
    e_shape = (_COMPUTE_GROUPS, TILE_V // _WRITE_V, blocks.rows, _WRITE_V) if write else (1, 1, 8, _WRITE_V)

    def body(x_gmem: Any, w_gmem: Any, *outputs: Any) -> None:
        e_gmem, top_gmem, sum_gmem = outputs if write else (None, *outputs)
        nothing = lambda *_: None  # noqa: E731 - the allocation does not depend on the computation

        @functools.partial(
            pl.run_scoped,
            buffers=pipeline(nothing, nothing).get_allocations(x_gmem, w_gmem),
            e_smem=plgpu.SMEM(e_shape, dtype, transforms=transforms),
            row_smem=plgpu.SMEM((_COMPUTE_GROUPS, 2, blocks.rows), jnp.float32),
            collective_axes="group",
        )
        def _(buffers: Any, e_smem: Any, row_smem: Any) -> None:
            group = lax.axis_index("group")
            in_cluster = lax.axis_index("cluster")

            @plgpu.nd_loop((n_row_blocks * n_column_blocks,), collective_axes="block")
            def _(loop: plgpu.NDLoopInfo) -> None:
                # Neighbouring blocks take other rows of the same tile: x stays in the L2 cache, w is read once.
                row_block, column_block = loop.index[0] % n_row_blocks, loop.index[0] // n_row_blocks
                tile = column_block * blocks.cluster + in_cluster
                rows = pl.ds(row_block * block_rows, block_rows)
                columns = pl.ds(tile * TILE_V, TILE_V)
                own_rows = pl.ds(group * blocks.rows, blocks.rows)

                def product(_: Any, x_smem: Any, w_smem: Any, acc: Any) -> Any:
                    plgpu.wgmma(acc, x_smem.at[own_rows], w_smem if flip else w_smem.T)
                    plgpu.wgmma_wait(_DELAY)
                    return acc

                def compute(run: Any) -> None:
                    @functools.partial(pl.run_scoped, acc=plgpu.ACC((blocks.rows, TILE_V), jnp.float32))
                    def logits(acc: Any) -> jax.Array:
                        run(acc)
                        return acc[...]

                    written, top, total = _epilogue(logits, tile, n_columns, soft_cap)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # of the previous tile
                    row_smem[group, 0] = top
                    row_smem[group, 1] = total
                    parts = [slice(v, v + _WRITE_V) for v in range(0, TILE_V if write else 0, _WRITE_V)]
                    for i, part in enumerate(parts):
                        e_smem[group, i] = written[:, part].astype(dtype)
                    plgpu.commit_smem()
                    for statistic, gmem in enumerate((top_gmem, sum_gmem)):
                        plgpu.copy_smem_to_gmem(row_smem.at[group, statistic], gmem.at[tile, rows].at[own_rows])
                    for i, part in enumerate(parts):
                        plgpu.copy_smem_to_gmem(e_smem.at[group, i], e_gmem.at[rows, columns].at[own_rows, part])

                w_columns = w_gmem.at[:, columns] if flip else w_gmem.at[columns]
                pipeline(product, compute)(x_gmem.at[rows], w_columns, allocations=buffers)

            plgpu.wait_smem_to_gmem(0)

    statistics = jax.ShapeDtypeStruct((n_column_blocks * blocks.cluster, n_row_blocks * block_rows), jnp.float32)
    outputs = plgpu.kernel(
        body,
        out_type=[*([jax.ShapeDtypeStruct((C, V), dtype)] if write else []), statistics, statistics],
        grid=(max(pallas.n_multiprocessors() // blocks.cluster, 1),),
        grid_names=("block",),
        cluster=(blocks.cluster,),
        cluster_names=("cluster",),
        num_threads=_COMPUTE_GROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=pallas.mosaic_interpretation(),
        kernel_name="ryot_linear_cross_entropy",
    )(x_CD, w_VD.T if flip else w_VD)
    return Tiles(*(outputs if write else (None, *outputs)))


def _epilogue(
    logits: jax.Array, tile: jax.Array, n_columns: int, soft_cap: float | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each row's exp(l - top) times the derivative of the soft cap, its top, and its sum of exp(l - top)."""
    slope = None
    if soft_cap is not None:
        share = jnp.tanh(logits / soft_cap)
        logits, slope = soft_cap * share, 1 - share * share
    if n_columns % TILE_V:  # padding columns of the last tile; a whole tile of them becomes NaN, and is sliced off
        column = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        logits = jnp.where(column + tile * TILE_V < n_columns, logits, -jnp.inf)
    top = logits.max(axis=1)
    log2e = math.log2(math.e)  # one multiply-add per number
    powers = jnp.exp2(logits * log2e - lax.broadcast_in_dim(top * log2e, logits.shape, [0]))
    total = powers.sum(axis=1)
    return powers if slope is None else powers * slope, top, total
