"""LayerNorm and RMSNorm in Pallas' Triton dialect, forward and backward, each in one pass over its arrays."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.gpu.triton import DTYPES, block_size, call, load_block, store_block, unseen_zero
from ryot_jax.kernels.ops.norm._limits import LARGEST_D


class NormBlocks(NamedTuple):
    """Tile sizes of the kernels."""

    elements: int = 2048  # per program at a time, in whole rows; at least one
    elements_per_thread: int = 16  # of each array; six live arrays take the 128 registers that four programs leave
    programs: int = 512  # at most, of 4 warps: nearly 4 for each of an H100's 132 processors, all resident at once


@pallas.lowered_once("centre", "epsilon", "dtype", "blocks")
def norm_forward(
    x_ND: jax.Array,
    residual_ND: jax.Array | None,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    *,
    centre: bool,
    epsilon: float,
    dtype: jnp.dtype,
    blocks: NormBlocks = NormBlocks(),  # noqa: B008 (immutable)
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]:
    """The norm y = (s - mean) * inverse * scale + bias of s = x + residual, in one pass over its arrays.

    Args:
      x_ND: float32, bfloat16 or float16, as the residual. The computation is in float32.
      residual_ND: added to x first, or None.
      scale_D: factor.
      bias_D: added last, or None.
      centre: whether the mean is subtracted: a layer norm; else an RMS norm.
      epsilon: added to the variance.
      dtype: dtype of y.
      blocks: tile sizes; `programs` is for `norm_backward` only.

    Returns:
      y_ND; s_ND, in the promoted dtype of x and residual; mean_N1 (None without `centre`) and inverse_N1, float32: one
      over the root of variance + epsilon.

    Raises:
      ValueError: shapes do not fit.
      TypeError: a dtype is none of those above.
      NotImplementedError: D is above `LARGEST_D`, or this device cannot run the kernel.
    """
    pallas.require("triton")
    arrays = [x_ND, *([] if residual_ND is None else [residual_ND])]
    vectors = [scale_D, *([] if bias_D is None else [bias_D])]
    n, d = x_ND.shape if x_ND.ndim == 2 else (0, 0)
    if not n * d or any(array.shape != (n, d) for array in arrays) or any(v.shape != (d,) for v in vectors):
        raise ValueError(f"need x[N,D], residual[N,D], scale[D], bias[D]; got {[a.shape for a in (*arrays, *vectors)]}")
    width, rows, warps = _norm_sizes(n, d, arrays, blocks)
    of_rows = jax.ShapeDtypeStruct((n,), jnp.float32)
    summed = [jax.ShapeDtypeStruct((n, d), jnp.result_type(*arrays))] if len(arrays) > 1 else []
    y_ND, inverse_N, *others = call(
        functools.partial(
            _norm_forward_kernel, rows=rows, width=width, centre=centre, epsilon=epsilon, n_arrays=len(arrays)
        ),
        out_shape=(jax.ShapeDtypeStruct((n, d), dtype), of_rows, *([of_rows] if centre else []), *summed),
        grid=(pl.cdiv(n, rows),),
        warps=warps,
        stages=1,
        name="ryot_norm_forward",
    )(*arrays, *vectors)
    mean_N1 = others[0].reshape(n, 1) if centre else None
    return y_ND, others[-1] if summed else x_ND, mean_N1, inverse_N.reshape(n, 1)


def _norm_forward_kernel(*refs: Any, rows: int, width: int, centre: bool, epsilon: float, n_arrays: int) -> None:
    n_outputs = n_arrays + 1 + centre  # y, inverse, mean, and s where there is a sum
    x_ref, *residual, scale_ref = refs[: n_arrays + 1]
    bias = refs[n_arrays + 1 : len(refs) - n_outputs]
    y_ref, inverse_ref, *others = refs[len(refs) - n_outputs :]
    d, row = x_ref.shape[1], pl.program_id(0) * rows
    first = unseen_zero(row)

    def load(ref: Any) -> jax.Array:
        return load_block(ref, (row, first), (rows, width)).astype(jnp.float32)

    def vector(ref: Any) -> jax.Array:
        return load_block(ref, (first,), (width,)).astype(jnp.float32)[None, :]

    s_RD = load(x_ref)
    for ref in residual:
        s_RD = s_RD + load(ref)
        store_block(others[-1], (row, first), (rows, width), s_RD)
        s_RD = s_RD.astype(others[-1].dtype).astype(jnp.float32)  # the norm of s as stored, not of more digits
    centred_RD = s_RD
    if centre:
        mean_R = jnp.sum(s_RD, axis=1) / d
        centred_RD = s_RD - mean_R[:, None]
        if width != d:
            inside_RD = lax.broadcasted_iota(jnp.int32, (rows, width), 1) < d
            centred_RD = jnp.where(inside_RD, centred_RD, 0)
        store_block(others[0], (row,), (rows,), mean_R)
    inverse_R = lax.rsqrt(jnp.sum(jnp.square(centred_RD), axis=1) / d + epsilon)
    store_block(inverse_ref, (row,), (rows,), inverse_R)
    y_RD = centred_RD * inverse_R[:, None] * vector(scale_ref)
    for ref in bias:
        y_RD = y_RD + vector(ref)
    store_block(y_ref, (row, first), (rows, width), y_RD)


def _norm_sizes(n: int, d: int, arrays: Sequence[jax.Array], blocks: NormBlocks) -> tuple[int, int, int]:
    """Check the arrays, and return the width and rows of a tile and the warps of a program."""
    if any(array.dtype not in DTYPES for array in arrays):
        raise TypeError(f"need arrays of {', '.join(DTYPES)}; got {', '.join(str(array.dtype) for array in arrays)}")
    if d > LARGEST_D:
        raise NotImplementedError(f"implementation='triton' takes norms of D <= {LARGEST_D}; got D = {d}")
    width = block_size(d, LARGEST_D)
    rows = min(max(1, blocks.elements // width), pl.next_power_of_2(n))
    return width, rows, min(max(4, rows * width // (32 * blocks.elements_per_thread)), 16)


@pallas.lowered_once("blocks")
def norm_backward(
    dy_ND: jax.Array,
    s_ND: jax.Array,
    scale_D: jax.Array,
    mean_N1: jax.Array | None,
    inverse_N1: jax.Array,
    ds_ND: jax.Array | None,
    *,
    blocks: NormBlocks = NormBlocks(),  # noqa: B008 (immutable)
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of a norm y = (s - mean) * inverse * scale + bias, in one pass over its arrays.

    Args:
      dy_ND: gradient of y; it, s and ds: float32, bfloat16 or float16, independently. The computation is in float32.
      s_ND: operand of the norm.
      scale_D: factor.
      mean_N1: mean of each row of s, in float32; or None: an RMS norm.
      inverse_N1: inverse deviation of each row from its mean (or from 0), in float32.
      ds_ND: gradient of another use of s, to be added; or None.
      blocks: tile sizes.

    Returns:
      dx_ND, in s's dtype: the gradient of s, `ds_ND` included. dscale_D and dbias_D, float32. Bitwise
      reproducible: programs write partial sums, and none adds to another's.

    Raises:
      ValueError: shapes do not fit.
      TypeError: a dtype is none of those above.
      NotImplementedError: D is above `LARGEST_D`, or this device cannot run the kernel.
    """
    pallas.require("triton")
    arrays = [dy_ND, s_ND, *([] if ds_ND is None else [ds_ND])]
    statistics = [*([] if mean_N1 is None else [mean_N1]), inverse_N1]
    shapes = [array.shape for array in (*arrays, scale_D, *statistics)]
    n, d = s_ND.shape if s_ND.ndim == 2 else (0, 0)
    if not n * d or shapes != [(n, d)] * len(arrays) + [(d,)] + [(n, 1)] * len(statistics):
        raise ValueError(f"need dy[N,D], s[N,D], ds[N,D], scale[D], mean[N,1], inverse[N,1]; got {shapes}")
    width, rows, warps = _norm_sizes(n, d, arrays, blocks)
    programs = min(blocks.programs * 4 // warps, pl.cdiv(n, rows))
    partial = jax.ShapeDtypeStruct((programs, d), jnp.float32)
    operands = dy_ND, s_ND, scale_D, *(statistic.reshape(n) for statistic in statistics)
    dx_ND, dscale_PD, dbias_PD = call(
        functools.partial(_norm_backward_kernel, rows=rows, width=width, centre=mean_N1 is not None),
        out_shape=(jax.ShapeDtypeStruct((n, d), s_ND.dtype), partial, partial),
        grid=(programs,),
        warps=warps,
        stages=1,
        name="ryot_norm_backward",
    )(*operands, *arrays[2:])
    return dx_ND, jnp.sum(dscale_PD, axis=0), jnp.sum(dbias_PD, axis=0)


def _norm_backward_kernel(
    dy_ref: Any, s_ref: Any, scale_ref: Any, *refs: Any, rows: int, width: int, centre: bool
) -> None:
    *given, dx_ref, dscale_ref, dbias_ref = refs
    mean_ref = given.pop(0) if centre else None
    inverse_ref, ds_ref = given if len(given) == 2 else (given[0], None)
    n, d = dy_ref.shape
    program, programs = pl.program_id(0), dscale_ref.shape[0]
    first = unseen_zero(program)
    scale_1D = load_block(scale_ref, (first,), (width,)).astype(jnp.float32)[None, :]

    def body(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row = (program + i * programs) * rows

        def load(ref: Any) -> jax.Array:
            return load_block(ref, (row, first), (rows, width)).astype(jnp.float32)

        dy_RD, s_RD = load(dy_ref), load(s_ref)
        ds_RD = None if ds_ref is None else load(ds_ref)  # here: one wait for memory, not another after the sums
        inverse_R1 = load_block(inverse_ref, (row,), (rows,))[:, None]
        if mean_ref is not None:
            s_RD = s_RD - load_block(mean_ref, (row,), (rows,))[:, None]
        # Columns beyond D are zero in dy and scale, so that subtracting the mean there has no effect.
        normal_RD, dnormal_RD = s_RD * inverse_R1, dy_RD * scale_1D
        total_RD = dnormal_RD - normal_RD * (jnp.sum(dnormal_RD * normal_RD, axis=1, keepdims=True) / d)
        if mean_ref is not None:
            total_RD = total_RD - jnp.sum(dnormal_RD, axis=1, keepdims=True) / d
        total_RD = total_RD * inverse_R1
        if ds_RD is not None:
            total_RD = total_RD + ds_RD
        store_block(dx_ref, (row, first), (rows, width), total_RD)
        return sums[0] + dy_RD * normal_RD, sums[1] + dy_RD

    zeros_RD = jnp.zeros((rows, width), jnp.float32)
    n_own = (pl.cdiv(n, rows) - program + programs - 1) // programs
    # One sum per position in a tile: no thread waits for another before the end.
    for ref, sums_RD in zip((dscale_ref, dbias_ref), lax.fori_loop(0, n_own, body, (zeros_RD, zeros_RD)), strict=True):
        store_block(ref, (program, first), (None, width), jnp.sum(sums_RD, axis=0))
