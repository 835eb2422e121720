"""Kernels in Pallas' Triton dialect, for NVIDIA GPUs from Ampere on: the parts of ops that XLA cannot fuse.

All of this dialect is in this file: JAX has announced its end, and what takes its place shall replace one file. No
gradients here: they are the ops'.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.gpu.pallas import TILE_V, Tiles

try:
    from jax.experimental.pallas import triton
except ImportError:  # it is gone: `pallas.refusal` says so, and nothing here is called
    triton = None  # type: ignore[assignment]

LARGEST_D = 8192  # of `norm_backward`: two vectors of sums have to stay in registers

_DTYPES = ("float32", "bfloat16", "float16")


class ProductBlocks(NamedTuple):
    """How `exponentials` is cut up. The defaults' three stages of 32 KiB fit the 99 KiB of shared memory of an L4."""

    rows: int = 128  # of x a program
    depth_bytes: int = 128  # of a row of x and of w at a time: a line of the cache
    group: int = 16  # blocks of rows that go through the vocabulary together: x's stay in L2, w is read once a group
    warps: int = 8
    stages: int = 3


class NormBlocks(NamedTuple):
    """How `norm_backward` is cut up."""

    elements: int = 2048  # a program holds at a time, in whole rows; at least one
    elements_per_thread: int = 16  # of each array; six of them live take the 128 registers that four programs leave
    programs: int = 512  # at most, of 4 warps: nearly 4 for each of an H100's 132 processors, all there at once


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
      blocks: how the work is cut up.

    Returns:
      What `Tiles` holds; the sum is without the slope of the soft cap.

    Raises:
      ValueError: shapes or the soft cap do not fit.
      TypeError: the dtypes differ, or are none of those above.
      NotImplementedError: this device cannot run the kernel.
    """
    pallas.require("triton")
    if x_CD.ndim != 2 or w_VD.ndim != 2 or x_CD.shape[1] != w_VD.shape[1] or 0 in (*x_CD.shape, *w_VD.shape):
        raise ValueError(f"need x[C,D] and w[V,D], none of them empty; got {x_CD.shape}, {w_VD.shape}")
    if x_CD.dtype != w_VD.dtype or x_CD.dtype not in _DTYPES:
        raise TypeError(f"need x and w of one dtype of {', '.join(_DTYPES)}; got {x_CD.dtype}, {w_VD.dtype}")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"need soft_cap > 0; got {soft_cap}")
    (c, d), v = x_CD.shape, w_VD.shape[0]
    rows, depth = _size(c, blocks.rows), _size(d, blocks.depth_bytes // x_CD.dtype.itemsize)
    row_blocks, n = pl.cdiv(c, rows), pl.cdiv(v, TILE_V)
    of_tiles = jax.ShapeDtypeStruct((n, c), jnp.float32)
    kernel = functools.partial(
        _exponentials_kernel, rows=rows, depth=depth, group=min(blocks.group, row_blocks), soft_cap=soft_cap
    )
    top_nC, sum_nC, *written = pl.pallas_call(
        kernel,
        out_shape=(of_tiles, of_tiles, *([jax.ShapeDtypeStruct((c, v), x_CD.dtype)] if write else [])),
        grid=(row_blocks * n,),
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=pallas.is_interpreted(),
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
        x_RK = _load(x_ref, (row, i * depth), (rows, depth))
        w_TK = _load(w_ref, (column, i * depth), (TILE_V, depth))
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
    _store(top_ref, (tile, row), (None, rows), top_R)
    _store(sum_ref, (tile, row), (None, rows), jnp.sum(exponentials_RT, axis=1))
    for ref in written:
        if soft_cap is not None:
            exponentials_RT = exponentials_RT * (1 - jnp.square(capped_RT))
        _store(ref, (row, column), (rows, TILE_V), exponentials_RT)


def _grouped(program: jax.Array, rows: int, columns: int, group: int) -> tuple[jax.Array, jax.Array]:
    """The (row, column) of a program. Programs run down a group of rows, then on to the next column."""
    first = program // (group * columns) * group
    height = jnp.minimum(rows - first, group)
    place = program % (group * columns)
    return first + place % height, place // height


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
    """A norm y = (s - mean) * inverse * scale + bias of s = x + residual, in one pass over its arrays.

    Args:
      x_ND: in float32, bfloat16 or float16, as the residual. All is computed in float32.
      residual_ND: summand in front, or None.
      scale_D: factor.
      bias_D: summand behind, or None.
      centre: whether the mean is taken away: a layer norm; else an RMS norm.
      epsilon: added to the variance.
      dtype: of y.
      blocks: how the work is cut up; `programs` is `norm_backward`'s.

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
    y_ND, inverse_N, *others = pl.pallas_call(
        functools.partial(
            _norm_forward_kernel, rows=rows, width=width, centre=centre, epsilon=epsilon, n_arrays=len(arrays)
        ),
        out_shape=(jax.ShapeDtypeStruct((n, d), dtype), of_rows, *([of_rows] if centre else []), *summed),
        grid=(pl.cdiv(n, rows),),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=pallas.is_interpreted(),
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
    first = _first(row)

    def load(ref: Any) -> jax.Array:
        return _load(ref, (row, first), (rows, width)).astype(jnp.float32)

    def vector(ref: Any) -> jax.Array:
        return _load(ref, (first,), (width,)).astype(jnp.float32)[None, :]

    s_RD = load(x_ref)
    for ref in residual:
        s_RD = s_RD + load(ref)
        _store(others[-1], (row, first), (rows, width), s_RD)
        s_RD = s_RD.astype(others[-1].dtype).astype(jnp.float32)  # the norm of what is kept, not of more digits
    centred_RD = s_RD
    if centre:
        mean_R = jnp.sum(s_RD, axis=1) / d
        centred_RD = s_RD - mean_R[:, None]
        if width != d:
            inside_RD = lax.broadcasted_iota(jnp.int32, (rows, width), 1) < d
            centred_RD = jnp.where(inside_RD, centred_RD, 0)
        _store(others[0], (row,), (rows,), mean_R)
    inverse_R = lax.rsqrt(jnp.sum(jnp.square(centred_RD), axis=1) / d + epsilon)
    _store(inverse_ref, (row,), (rows,), inverse_R)
    y_RD = centred_RD * inverse_R[:, None] * vector(scale_ref)
    for ref in bias:
        y_RD = y_RD + vector(ref)
    _store(y_ref, (row, first), (rows, width), y_RD)


def _norm_sizes(n: int, d: int, arrays: Sequence[jax.Array], blocks: NormBlocks) -> tuple[int, int, int]:
    """Width and rows of a norm's block, and warps of a program, for arrays that it can take."""
    if any(array.dtype not in _DTYPES for array in arrays):
        raise TypeError(f"need arrays of {', '.join(_DTYPES)}; got {', '.join(str(array.dtype) for array in arrays)}")
    if d > LARGEST_D:
        raise NotImplementedError(f"implementation='triton' takes norms of D <= {LARGEST_D}; got D = {d}")
    width = _size(d, LARGEST_D)
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
      dy_ND: gradient of y; this, s and ds in float32, bfloat16 or float16 each. All is computed in float32.
      s_ND: operand of the norm.
      scale_D: factor.
      mean_N1: mean of each row of s, in float32; or None: an RMS norm.
      inverse_N1: inverse deviation of each row from its mean (or from 0), in float32.
      ds_ND: gradient of another use of s, to be added; or None.
      blocks: how the work is cut up.

    Returns:
      dx_ND, in s's dtype: the gradient of s, `ds_ND` included. dscale_D and dbias_D, float32. The same to the bit each
      time: programs write partial sums, none adds to another's.

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
    dx_ND, dscale_PD, dbias_PD = pl.pallas_call(
        functools.partial(_norm_backward_kernel, rows=rows, width=width, centre=mean_N1 is not None),
        out_shape=(jax.ShapeDtypeStruct((n, d), s_ND.dtype), partial, partial),
        grid=(programs,),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=pallas.is_interpreted(),
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
    first = _first(program)
    scale_1D = _load(scale_ref, (first,), (width,)).astype(jnp.float32)[None, :]

    def body(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row = (program + i * programs) * rows

        def load(ref: Any) -> jax.Array:
            return _load(ref, (row, first), (rows, width)).astype(jnp.float32)

        dy_RD, s_RD = load(dy_ref), load(s_ref)
        ds_RD = None if ds_ref is None else load(ds_ref)  # here: one wait for memory, not a second after the sums
        inverse_R1 = _load(inverse_ref, (row,), (rows,))[:, None]
        if mean_ref is not None:
            s_RD = s_RD - _load(mean_ref, (row,), (rows,))[:, None]
        # Columns beyond D are zero in dy and scale, so that what the mean makes of them there adds nothing.
        normal_RD, dnormal_RD = s_RD * inverse_R1, dy_RD * scale_1D
        total_RD = dnormal_RD - normal_RD * (jnp.sum(dnormal_RD * normal_RD, axis=1, keepdims=True) / d)
        if mean_ref is not None:
            total_RD = total_RD - jnp.sum(dnormal_RD, axis=1, keepdims=True) / d
        total_RD = total_RD * inverse_R1
        if ds_RD is not None:
            total_RD = total_RD + ds_RD
        _store(dx_ref, (row, first), (rows, width), total_RD)
        return sums[0] + dy_RD * normal_RD, sums[1] + dy_RD

    zeros_RD = jnp.zeros((rows, width), jnp.float32)
    n_own = (pl.cdiv(n, rows) - program + programs - 1) // programs
    # A sum for each place of a block: no thread waits for another's before the end.
    for ref, sums_RD in zip((dscale_ref, dbias_ref), lax.fori_loop(0, n_own, body, (zeros_RD, zeros_RD)), strict=True):
        _store(ref, (program, first), (None, width), jnp.sum(sums_RD, axis=0))


def _first(index: jax.Array) -> jax.Array:
    """Zero, as a start that jax does not see: 0.12 refuses a block that goes beyond an array, masked or not."""
    return index * 0


def _size(length: int, largest: int) -> int:
    """Of a block along an axis: Triton takes powers of two, and products of 16 and more."""
    return min(largest, max(16, pl.next_power_of_2(length)))


def _block(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None]) -> tuple[Any, jax.Array | None]:
    """The view of `ref` at `starts` (None: an index, no axis of the block), and where it is inside of `ref`.

    Starts are multiples of the sizes inside of `ref`: no mask where the sizes divide its shape.
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


def _load(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None]) -> jax.Array:
    """The block of `ref`, with zeros where there is nothing."""
    view, mask = _block(ref, starts, sizes)
    return triton.load(view, mask=mask, other=None if mask is None else 0)


def _store(ref: Any, starts: Sequence[Any], sizes: Sequence[int | None], block: jax.Array) -> None:
    view, mask = _block(ref, starts, sizes)
    triton.store(view, block.astype(ref.dtype), mask=mask)
