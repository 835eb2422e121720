"""Backward pass of LayerNorm and RMSNorm as one kernel for NVIDIA Hopper, in Pallas Mosaic GPU.

Every array is read or written once, so memory bandwidth is the limit. Warpgroups stay resident and take tiles of rows
in turn: bulk copies fetch the next tiles into shared memory while one is processed. A row belongs to one warp (two or
four if it is long), so that its two sums need only shuffles, and a lane sees the same columns in every row, so that it
accumulates the gradients of scale and bias in registers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.norm._mosaic_rows import LANES, RUN, refusal, warps_per_row

_WARPS = 4  # warps of a warpgroup
_NO_INDEX = (None,) if jax.__version_info__ < (0, 11) else ()  # older plgpu.load takes an index beside the reference
_SHARED_BYTES = 212 * 1024  # of the 228 KiB of a core; the rest is for barriers, Mosaic's sums and the system


@pallas.lowered_once("rows", "stages", "warpgroups")
def norm_backward(
    dy_ND: jax.Array,
    s_ND: jax.Array,
    scale_D: jax.Array,
    mean_N1: jax.Array | None,
    inverse_N1: jax.Array,
    ds_ND: jax.Array | None = None,
    *,
    rows: int | None = None,
    stages: int = 3,
    warpgroups: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of y = (s - mean) * inverse * scale + bias with respect to s, scale and bias.

    With n = (s - mean) * inverse and g = dy * scale, a row of dx is (g - n * mean(g * n) - mean(g)) * inverse + ds;
    dscale is the sum of dy * n over the rows and dbias that of dy. RMS norm has no mean and no term mean(g). Computed
    in float32, in an order that depends only on shapes, parameters and the number of cores.

    Args:
      dy_ND: gradient with respect to y. It, s and ds: float32, bfloat16 or float16, independently. D is a multiple of
        128 up to 2048, of 256 up to 4096, of 512 up to 8192. N is any; one that is not a multiple of `rows` costs a
        copy of all operands.
      s_ND: the normalized sum.
      scale_D: factor.
      mean_N1: the rows' means, float32; None: RMS norm.
      inverse_N1: one over the rows' deviations, float32.
      ds_ND: gradient of the other use of s, which is added to dx; or None.
      rows: rows of a tile, a multiple of 4 up to D = 1024, 2 to 2048, and 1 beyond; None: about 3072 numbers.
      stages: tiles per warpgroup in shared memory or in flight; reduced if shared memory is too small.
      warpgroups: warpgroups that share a core; reduced if its shared memory is too small. None: as its registers allow.

    Returns:
      dx[N, D] in the dtype of s, dscale[D] and dbias[D] in float32.

    Raises:
      NotImplementedError: the kernel cannot run on this machine, or not with this D.
      ValueError: `rows` does not suit D, or a tile exceeds the shared memory.
    """
    pallas.require("mosaic")
    n, d = s_ND.shape
    if (warps := warps_per_row(d)) is None:
        raise NotImplementedError(refusal(d))
    concurrent = _WARPS // warps  # rows that a warpgroup computes at once
    rows = rows or concurrent * max(groups for groups in (1, 2, 4) if groups == 1 or groups * concurrent * d <= 3072)
    if rows % concurrent:
        raise ValueError(f"need rows, a multiple of {concurrent} for D={d}; got {rows}")
    tiles = max(1, -(-n // rows))

    of_tile = rows // concurrent, *([concurrent] if concurrent > 1 else [])  # one row: Mosaic fails on slices [1, K]

    def tiled(x: jax.Array, *columns: int) -> jax.Array:
        """Reshape to x[T, G, C, ...]: tiles, groups of concurrent rows, rows; the last tile is padded with zeros."""
        x = jnp.pad(x.reshape(n, *columns), ((0, tiles * rows - n), *((0, 0) for _ in columns)))
        return x.reshape(tiles, *of_tile, *columns)

    copied = [tiled(x, d) for x in (dy_ND, s_ND, ds_ND) if x is not None]
    alone = warps > 1  # one warpgroup per block: Mosaic's sums over the warps of a row use memory that a block has once
    warpgroups, stages = _fit(
        min(tiles, warpgroups or _warpgroups(d // (warps * LANES), alone)),
        stages,
        input_bytes=sum(rows * d * x.dtype.itemsize for x in copied),
        output_bytes=2 * rows * d * s_ND.dtype.itemsize,
        sums_bytes=4 * concurrent * d,
        alone=alone,
    )
    of_block = 1 if alone else warpgroups
    blocks = min(pallas.n_multiprocessors() * warpgroups, tiles) // of_block
    stages = min(stages, tiles // (blocks * of_block))  # no warpgroup has fewer tiles
    kernel = _call(copied, s_ND.dtype, tiles=tiles, of_tile=of_tile, blocks=blocks, of_block=of_block, stages=stages)
    dx, partial_2WD = kernel(scale_D, [tiled(x) for x in (inverse_N1, mean_N1) if x is not None], copied)
    dscale_D, dbias_D = jnp.sum(partial_2WD, axis=1)
    return dx.reshape(tiles * rows, d)[:n], dscale_D, dbias_D


def _call(
    copied: list[jax.Array],
    dtype: Any,
    *,
    tiles: int,
    of_tile: tuple[int, ...],
    blocks: int,
    of_block: int,
    stages: int,
) -> Callable[..., Any]:
    """The kernel on a grid of `blocks` blocks of `of_block` warpgroups, for tiled arrays and a result of `dtype`."""
    d = copied[0].shape[-1]
    warps = warps_per_row(d)
    assert warps is not None, "checked by the caller"
    kernel: Callable[..., Any] = plgpu.kernel(
        functools.partial(_kernel, stages=stages, columns=warps * LANES * RUN, layout=_layout(warps)),
        out_type=(
            jax.ShapeDtypeStruct((tiles, *of_tile, d), dtype),
            jax.ShapeDtypeStruct((2, blocks * of_block, d), jnp.float32),
        ),
        scratch_types=(
            [plgpu.SMEM((of_block, stages, *x.shape[1:]), x.dtype) for x in copied],
            plgpu.SMEM((of_block, 2, *of_tile, d), dtype),
            plgpu.SMEM((*of_tile[1:], d), jnp.float32),
            plgpu.Barrier(num_arrivals=len(copied), num_barriers=of_block * stages),
            plgpu.Barrier(num_barriers=of_block),
        ),
        grid=(blocks,),
        grid_names=("block",),
        num_threads=of_block,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
        interpret=pallas.mosaic_interpretation(),
        kernel_name="ryot_norm_backward",
    )
    return kernel


def _kernel(
    scale_D: Any,
    statistics_TGC: list[Any],  # inverse, and mean if there is one
    sources_TGCD: list[Any],  # dy, s, and ds if there is one
    dx_TGCD: Any,
    partial_2WD: Any,
    buffers: list[Any],
    dx_buffers: Any,
    sums_CD: Any,
    arrived: Any,
    added_up: Any,
    *,
    stages: int,
    columns: int,
    layout: Any,
) -> None:
    """The work of warpgroup w of W: dx of the tiles w, w + W, ..., and the sums over their rows."""
    warpgroup = lax.axis_index("warpgroup")
    w, of_all = warpgroup * lax.axis_size("block") + lax.axis_index("block"), partial_2WD.shape[1]
    tiles, groups, *concurrent, d = dx_TGCD.shape  # no C for one row at once
    steps = (tiles - w + of_all - 1) // of_all
    of_rows, of_columns = (layout.reduce(1), layout.reduce(0)) if concurrent else (None, layout)
    slices = [slice(start, start + columns) for start in range(0, d, columns)]  # a lane has a run of K columns in each

    def fetch(step: Any, stage: Any) -> None:
        for source, buffer in zip(sources_TGCD, buffers, strict=True):
            plgpu.copy_gmem_to_smem(
                source.at[w + step * of_all],
                buffer.at[warpgroup, stage],
                arrived.at[warpgroup * stages + stage],
                oob_mode=plgpu.OOBFillMode.PROMISE_IN_BOUNDS,  # otherwise Mosaic would not use bulk copies
            )

    def load_statistics(step: Any) -> list[list[jax.Array]]:
        tile = w + step * of_all
        return [[_load(x, (tile, group), of_rows) for x in statistics_TGC] for group in range(groups)]

    def by_row(x_C: jax.Array) -> jax.Array:
        return _cast(lax.broadcast_in_dim(x_C, (*concurrent, columns), tuple(range(x_C.ndim))), layout)

    def by_column(x_K: jax.Array) -> jax.Array:
        return _cast(lax.broadcast_in_dim(x_K, (*concurrent, columns), (1,)), layout) if concurrent else x_K

    def compute_tile(step: Any, carry: Any) -> Any:
        dscale, dbias, of_groups = carry
        stage, out = lax.rem(step, stages), lax.rem(step, 2)
        of_next_groups = load_statistics(lax.min(step + 1, steps - 1))  # a step ahead, as they come from global memory
        plgpu.barrier_wait(arrived.at[warpgroup * stages + stage])
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)  # of the last step but one, whose buffer is next
        for group, (inverse_C, *mean_C) in enumerate(of_groups):
            inverse_CK, mean_CK = by_row(inverse_C), [by_row(x_C) for x_C in mean_C]

            def load(
                of: slice, group: int = group, mean_CK: list[jax.Array] = mean_CK
            ) -> tuple[jax.Array, jax.Array, jax.Array, list[jax.Array]]:
                index = warpgroup, stage, group, ..., of
                dy_CK, s_CK, *ds_CK = (_load(buffer, index, layout) for buffer in buffers)
                centred_CK = s_CK - mean_CK[0] if mean_CK else s_CK
                return dy_CK, centred_CK, by_column(_load(scale_D, (of,), of_columns)), ds_CK

            # Two passes over the row in shared memory: registers are for what persists from row to row. With
            # centred = n / inverse, most operations are multiply-adds.
            sum_CK = sum_of_products_CK = zero_CK
            for i, of in enumerate(slices):
                dy_CK, centred_CK, scale_CK, _ = load(of)
                product_CK = dy_CK * centred_CK
                dscale[i], dbias[i] = dscale[i] + product_CK * inverse_CK, dbias[i] + dy_CK
                sum_CK, sum_of_products_CK = sum_CK + dy_CK * scale_CK, sum_of_products_CK + product_CK * scale_CK
            slope_CK = by_row(jnp.sum(sum_of_products_CK, axis=-1) * (1 / d) * inverse_C * inverse_C)
            shift_CK = [by_row(jnp.sum(sum_CK, axis=-1) * (1 / d)) for _ in mean_CK]
            for of in slices:
                dy_CK, centred_CK, scale_CK, ds_CK = load(of)
                total_CK = dy_CK * scale_CK
                if shift_CK:
                    total_CK = total_CK - shift_CK[0]
                total_CK = (total_CK - centred_CK * slope_CK) * inverse_CK
                if ds_CK:
                    total_CK = total_CK + ds_CK[0]
                dx_buffers[warpgroup, out, group, ..., of] = total_CK.astype(dx_buffers.dtype)
        plgpu.commit_smem()  # all warps have read this stage and written dx
        plgpu.copy_smem_to_gmem(dx_buffers.at[warpgroup, out], dx_TGCD.at[w + step * of_all])
        pl.when(step + stages < steps)(lambda: fetch(step + stages, stage))
        return dscale, dbias, of_next_groups

    for stage in range(stages):
        fetch(stage, stage)
    zero_CK = _cast(jnp.zeros((*concurrent, columns), jnp.float32), layout)
    zeros = [zero_CK for _ in slices]
    *sums, _ = lax.fori_loop(0, steps, compute_tile, (zeros, zeros, load_statistics(0)))

    # Add up over concurrent rows, which are on different warps; warpgroups take turns with the memory for it.
    pl.when(warpgroup > 0)(lambda: plgpu.barrier_wait(added_up.at[warpgroup - 1]))
    for i, of_slices in enumerate(sums):
        for of, sum_CK in zip(slices, of_slices, strict=True):
            sums_CD[..., of] = sum_CK
        plgpu.commit_smem()
        for of in slices:
            rows = [(c, of) for c in range(*concurrent)] if concurrent else [(of,)]
            partial_2WD[i, w, of] = sum(_load(sums_CD, row, of_columns) for row in rows)
        plgpu.commit_smem()
    plgpu.barrier_arrive(added_up.at[warpgroup])
    plgpu.wait_smem_to_gmem(0)


def _warpgroups(columns_per_lane: int, alone: bool) -> int:
    """The number of warpgroups for which the registers of a core, 64 Ki, suffice."""
    # Two per column, and those for a row: as many as the compiler takes or, with several warpgroups in a block, needs
    # to avoid spills.
    return min(4, 2**16 // (_WARPS * LANES * (2 * columns_per_lane + (104 if alone else 76))))


def _fit(
    warpgroups: int, stages: int, *, input_bytes: int, output_bytes: int, sums_bytes: int, alone: bool
) -> tuple[int, int]:
    """The largest numbers of warpgroups (with two stages or more) and stages, up to those given, that fit."""
    for least in (2, 1):
        for fewer in range(warpgroups, 0, -1):
            for fewer_stages in range(stages, min(least, stages) - 1, -1):
                tiles_bytes = fewer * (fewer_stages * input_bytes + output_bytes)
                if tiles_bytes + (fewer if alone else 1) * sums_bytes <= _SHARED_BYTES:
                    return fewer, fewer_stages
    raise ValueError(f"a tile and its outcome, of {input_bytes + output_bytes} bytes, need fewer rows")


def _layout(warps: int) -> Any:
    """Layout of [rows, columns]: neighbouring lanes hold neighbouring runs, `warps` warps hold a row."""
    lanes = LANES * RUN
    tiles: dict[int, tuple[tuple[int, ...], ...]] = {
        1: ((4, lanes), (RUN,)),
        2: ((2, 2 * lanes), (lanes,), (RUN,)),
        4: ((4 * lanes,), (lanes,), (RUN,)),
    }
    return plgpu.Layout.TILED(
        plgpu.Tiling(tiles[warps]), warp_dims=(-4, -3) if warps == 2 else (-3,), lane_dims=(-2,), vector_dim=-1
    )


def _cast(x: jax.Array, layout: Any) -> jax.Array:
    """Convert to this layout; a no-op under interpretation, which has no layouts before jax 0.11."""
    return x if pallas.is_interpreted() else plgpu.layout_cast(x, layout)


def _load(ref: Any, index: tuple[Any, ...], layout: Any) -> jax.Array:
    """Load the values at the index, in this layout and in float32."""
    if pallas.is_interpreted():
        return ref[index].astype(jnp.float32)
    # `optimized` would refuse loads from global memory.
    return plgpu.load(ref.at[index], *_NO_INDEX, layout=layout, optimized=False).astype(jnp.float32)
