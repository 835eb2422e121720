"""Plot of files of one checkpoint: bytes against the rise of perplexity, by method."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ryot_jax.comparison.schema import CompressionResult, Results, TradeOffPoint
from ryot_jax.report.plots import style
from ryot_jax.report.words import counted, percent

_File = TradeOffPoint | CompressionResult
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": style.BLUE, "marker": "o", "linestyle": "-"},
    {"color": style.VERMILLION, "marker": "s", "linestyle": "--"},
    {"color": style.GREEN, "marker": "^", "linestyle": ":"},
    {"color": style.INK, "marker": "D", "linestyle": "-."},
)
_LEAST, _MOST = 0.01, 1.0  # per cent: range of the transition of the rise axis from linear to logarithmic


def trade_off(results: Results) -> Figure | None:
    """Draws the rise of perplexity over bytes, one line per method, and the chosen file.

    The axis of rises is linear around zero and logarithmic beyond, so that files without a rise have a place on it.
    """
    methods = _methods(results)
    if not methods:
        return None
    chosen = results.compression
    made, (axis,) = style.figure(height=4.2)
    axis.axhline(0.0, color=style.GREY, linestyle=":", linewidth=1.2)
    for (method, points), look in zip(methods.items(), itertools.cycle(_LOOKS), strict=False):
        line = look if len(points) > 1 else look | {"linestyle": "none"}
        axis.errorbar(
            [point.bytes for point in points], [_rise(point) for point in points],
            yerr=_bars(points), label=style.plain(method, 22), markersize=5, capsize=2.5, elinewidth=1.2, **line,
        )  # fmt: skip
    lines: list[Sequence[_File]] = list(methods.values())
    if chosen is not None and _is_drawn(chosen):
        lines.append([chosen])
    _scale(axis, [abs(_rise(point)) for points in lines for point in points])
    if chosen is not None and _is_drawn(chosen):
        _mark_chosen(axis, chosen)
        _label_chosen(axis, chosen, lines)
    style.legend(made, [axis])
    return made


def describe_trade_off(results: Results) -> str:
    """Describes the ends of each line and the chosen file in words."""
    chosen = results.compression
    words = [_span(method, points) for method, points in _methods(results).items()]
    if chosen is not None and _is_drawn(chosen):
        words.append(f"the chosen file, marked by a star, {_place(chosen)}")
    return f"Rise of perplexity over the bytes of the file: {'; '.join(words)}."


def _methods(results: Results) -> dict[str, list[TradeOffPoint]]:
    """The measured points of each method, from the fewest bytes to the most."""
    compression = results.compression
    methods: dict[str, list[TradeOffPoint]] = {}
    for point in () if compression is None else compression.pareto:
        if _is_drawn(point):
            methods.setdefault(point.method, []).append(point)
    return {method: sorted(points, key=lambda point: point.bytes) for method, points in methods.items()}


def _is_drawn(point: _File) -> bool:
    return point.bytes > 0 and point.perplexity_change.estimate is not None


def _rise(point: _File) -> float:
    """Rise of perplexity in per cent."""
    return 100 * (point.perplexity_change.estimate or 0.0)


def _bars(points: Sequence[_File]) -> tuple[list[float], list[float]]:
    """Lengths of the intervals below and above their estimates."""
    below, above = [], []
    for point in points:
        estimate, ci = point.perplexity_change.estimate or 0.0, point.perplexity_change.ci95
        low, high = (estimate, estimate) if ci is None else ci
        below.append(100 * max(0.0, estimate - low))
        above.append(100 * max(0.0, high - estimate))
    return below, above


def _mark_chosen(axis: Axes, chosen: CompressionResult) -> None:
    look: dict[str, Any] = {"markersize": 15, "markerfacecolor": style.ORANGE, "markeredgecolor": style.INK}
    axis.errorbar(
        chosen.bytes, _rise(chosen), yerr=_bars([chosen]), marker="*", color=style.INK, linestyle="none",
        capsize=2.5, zorder=5, label="the chosen file", **look,
    )  # fmt: skip


def _label_chosen(axis: Axes, chosen: CompressionResult, lines: Sequence[Sequence[_File]]) -> None:
    """Labels the chosen file with name, bytes and rise, in a corner without lines."""
    right, top = _free_corner(axis, lines)
    name = style.plain(chosen.file.rpartition("/")[2], 28)
    axis.annotate(
        f"{name}\n{chosen.bytes:,} bytes\n{percent(chosen.perplexity_change.estimate, '+.2f')}",
        (chosen.bytes, _rise(chosen)), xytext=(0.97 if right else 0.03, 0.95 if top else 0.05),
        textcoords="axes fraction", ha="right" if right else "left", va="top" if top else "bottom",
        fontsize=9, zorder=4,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": style.GREY, "linewidth": 0.6},
        arrowprops={"arrowstyle": "-", "color": style.INK, "linewidth": 0.9, "shrinkB": 7},
    )  # fmt: skip


def _free_corner(axis: Axes, lines: Sequence[Sequence[_File]]) -> tuple[bool, bool]:
    """A corner without lines, as (is right, is top); tries that of few bytes and no rise first, as it is often free."""
    axis.autoscale_view()
    strokes = [[(point.bytes, _rise(point)) for point in points] for points in lines]
    for point in itertools.chain(*lines):
        below, above = _bars([point])
        strokes.append([(point.bytes, _rise(point) - below[0]), (point.bytes, _rise(point) + above[0])])
    # Every line at 20 points of each segment, in fractions of the axes.
    seen = []
    for stroke in strokes:
        ends_N2 = (axis.transData - axis.transAxes).transform(stroke)
        at_S = np.linspace(0, len(stroke) - 1, 20 * len(stroke))
        seen.append(np.stack([np.interp(at_S, np.arange(len(stroke)), ends_N) for ends_N in ends_N2.T], axis=-1))
    seen_S2 = np.concatenate(seen)
    corners = ((False, False), (True, True), (True, False), (False, True))
    near = (0.36, 0.27)  # size of the label in fractions of the axes
    return next((c for c in corners if not np.any(np.all(np.abs(seen_S2 - c) < near, axis=-1))), corners[0])


def _linear_up_to(rises: Sequence[float]) -> float:
    """End of the linear part of the axis: the power of ten at or below the smallest rise."""
    least = min((rise for rise in rises if rise >= _LEAST), default=_MOST)
    return min(_MOST, max(_LEAST, 10.0 ** math.floor(math.log10(least))))


def _scale(axis: Axes, rises: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=_linear_up_to(rises), linscale=0.6)
    axis.margins(x=0.08, y=0.08)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="bytes of the file (logarithmic)", ylabel="rise of perplexity (%)")


def _span(method: str, points: Sequence[_File]) -> str:
    if len(points) == 1:
        return f"{method} {_place(points[0])}"
    return f"{method} from {_place(points[0])} to {_place(points[-1])} ({counted(len(points), 'setting')})"


def _place(point: _File) -> str:
    return f"{point.bytes:,} bytes at {percent(point.perplexity_change.estimate, '+.2f')}"
