"""Quantizers: rounding to a grid of given width, with or without making up for errors, and to a grid by sensitivity."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.calibration import Moments, as_matrix_shape
from ryot_jax.compression.feedback import factor, round_with_feedback
from ryot_jax.compression.packing import module_of
from ryot_jax.compression.quantized import (
    MAX_BITS,
    exponents_of,
    narrowed,
    nearest,
    quantized,
    scale_of,
)
from ryot_jax.compression.transforms import Transform, leafwise

Feedback = Literal["none", "rows", "columns", "both"]

# Steps, in standard deviations, of the uniform quantizer of 2^bits levels with the least mean square error for a normal
# distribution: J. Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6 (1960), table II.
_BEST_STEP = {1: 1.5958, 2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}


def best_clip(bits: int) -> float:
    """Half the range, in standard deviations, of the grid that `quantize` takes by itself."""
    return _BEST_STEP[bits] * 2**bits / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """A fitted grid: exponents of the scales of an array, and its moments where errors are made up for."""

    exponents: tuple[jax.Array, ...]
    moments: Any = dataclasses.field(default=None, metadata={"static": True})


def quantize(
    bits: int,
    *,
    group: int = 0,
    clip: float | None = None,
    feedback: Feedback = "none",
    damping: float = 0.05,
    min_ndim: int = 2,
) -> Transform:
    """Codes of `bits` bits on a uniform grid, with one scale for each group of a row or column.

    Args:
      bits: 1 to 8.
      group: elements that share a scale; they lie along the array's shorter side. 0: the whole of that side.
      clip: half the range of the grid in standard deviations of the group; None: the range with the least mean square
        error for normally distributed values. A range that holds the largest element wastes the grid on it.
      feedback: 'none' takes the nearest code; along rows, columns or both, each code makes up for the errors of those
        before it (needs the `stats` of `calibrate`; 'rows' is GPTQ of a matrix that is used as x @ w).
      damping: see `feedback.factor`.
      min_ndim: arrays with fewer axes are left as they are.

    Raises:
      ValueError: bits out of range; feedback without stats.
    """
    if bits not in _BEST_STEP:
        raise ValueError(f"bits = {bits}: must lie in 1 to {max(_BEST_STEP)}")
    offset = (2**bits - 1) / 2
    step_in_deviations = _BEST_STEP[bits] if clip is None else 2 * clip / 2**bits

    def fit(w: jax.Array, moments: Moments | None) -> Grid | None:
        if jnp.ndim(w) < min_ndim:
            return None
        if moments is None and feedback != "none":
            raise ValueError("feedback needs the stats of `calibrate` for this array: give them to `init`")
        deviation = _group_deviation(_on_host(w), group)
        return Grid((exponents_of(step_in_deviations * deviation),), moments if feedback != "none" else None)

    def compress(w: jax.Array, grid: Grid) -> Any:
        if feedback == "none":
            return traceable(_on_host(w), grid)
        codes = _codes(w, grid, bits, offset, feedback, damping)
        return quantized(codes, grid.exponents, bits, offset)

    def traceable(w: jax.Array, grid: Grid) -> Any:
        return quantized(nearest(w, grid.exponents, bits, offset), grid.exponents, bits, offset)

    return leafwise(fit, compress, traceable)


def balanced(
    rise: float, *, feedback: Feedback = "both", damping: float = 0.05, scale_resolution: int = 2
) -> Transform:
    """A grid on which every parameter's rounding error costs the same, for codes that are entropy-coded in the file.

    The step at (i, j) is sqrt(24 rise) r_i c_j with r and c by the array's moments (`feedback.Factors.step_scales`):
    few bits where the loss is insensitive, many where it is sensitive, and no clipping. Vectors are quantized too.

    Args:
      rise: expected rise of the mean loss for each parameter, in the loss's unit.
      feedback: see `quantize`.
      damping: see `feedback.factor`.
      scale_resolution: r and c are rounded to this many eighths of an octave; coarser ones take fewer bytes.

    Raises:
      ValueError: rise is not positive; no stats.
    """
    if not rise > 0:
        raise ValueError(f"rise = {rise}: must be above zero")
    middle = 2 ** (MAX_BITS - 1)

    def fit(w: jax.Array, moments: Moments | None) -> Grid:
        if moments is None:
            raise ValueError("balanced needs the stats of `calibrate` for this array: give them to `init`")
        rows, columns = factor(moments, damping, sides=feedback).step_scales()
        # Codes have 16 bits, one of which is room for what feedback adds: no step is finer than holds the array.
        largest = np.abs(np.asarray(w, np.float64).reshape(as_matrix_shape(np.shape(w)))) / 2 ** (MAX_BITS - 2)
        if jnp.ndim(w) < 2:
            steps = np.maximum((24 * rise) ** 0.5 * rows[:, None] * columns, largest)
            return Grid((exponents_of(steps, scale_resolution).reshape(np.shape(w)),), moments)
        # The factors' common size is all in one of them, which then is the only one that `rise` changes.
        size = np.exp(np.mean(np.log(columns)))
        shape = ((*np.shape(w)[:-1], 1), (1,) * (jnp.ndim(w) - 1) + np.shape(w)[-1:])
        rows_exponents = exponents_of(rows * size, scale_resolution).reshape(shape[0])
        columns_exponents = exponents_of(columns / size, scale_resolution).reshape(shape[1])
        finest = np.max(largest / (rows[:, None] * columns), initial=0.0)
        overall = exponents_of(max((24 * rise) ** 0.5, finest))  # apart, at the full resolution
        return Grid((rows_exponents + overall, columns_exponents), moments)

    def compress(w: jax.Array, grid: Grid) -> Any:
        codes = _codes(w, grid, MAX_BITS, middle, feedback, damping).astype(np.int64)
        return narrowed(codes, grid.exponents, middle)

    def traceable(w: jax.Array, grid: Grid) -> Any:
        return quantized(nearest(w, grid.exponents, MAX_BITS, middle), grid.exponents, MAX_BITS, middle)

    return leafwise(fit, compress, traceable)


def _codes(w: Any, grid: Grid, n_bits: int, offset: float, feedback: Feedback, damping: float) -> np.ndarray:
    shape = as_matrix_shape(np.shape(w))
    step = np.broadcast_to(scale_of(grid.exponents, np.shape(w)), np.shape(w))
    factors = factor(grid.moments, damping, sides=feedback)
    codes = round_with_feedback(np.reshape(w, shape), step.reshape(shape), factors, n_bits, offset)
    return codes.reshape(np.shape(w))


def _on_host(w: Any) -> Any:
    """Moves an array to NumPy, so that nothing is compiled for it; traced arrays stay as they are."""
    return w if isinstance(w, jax.core.Tracer) else np.asarray(w)


def _group_deviation(w: Any, group: int) -> Any:
    """Root mean square of each group, with its axes reduced to one entry a group."""
    xp = module_of(w)
    axis = int(np.argmin(np.shape(w)[-2:])) - 2 if jnp.ndim(w) > 1 else -1
    n = np.shape(w)[axis]
    size = _piece(n, group or n)
    squares = xp.moveaxis(xp.square(w.astype(np.float32)), axis, -1)
    squares = xp.pad(squares, [(0, 0)] * (squares.ndim - 1) + [(0, -n % size)])
    counts = np.minimum(size, n - size * np.arange(squares.shape[-1] // size))
    sums = xp.sum(squares.reshape(*squares.shape[:-1], -1, size), -1)
    mean = sums / np.broadcast_to(counts, sums.shape).astype(np.float32)
    return xp.moveaxis(xp.sqrt(mean), -1, axis)


def _piece(n: int, group: int) -> int:
    """The even size of as many groups of at most `group` as n elements need: what `Quantized` takes them to have."""
    return -(-n // -(-n // group))
