"""Plot of the compilation times."""

import itertools
from typing import Any

from matplotlib.figure import Figure

from ryot_jax.comparison.schema import Results
from ryot_jax.report.plots import style
from ryot_jax.report.words import duration, ordered_arms


def compilation(results: Results) -> Figure | None:
    """Draws the seconds of each part of compilation as stacked bars, cold and from the warm cache."""
    arms = ordered_arms(results)
    parts = list(dict.fromkeys(part for arm in arms.values() for part in arm.compile_parts))
    if not parts:
        return None
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.VERMILLION)
    made, (axis,) = style.figure(height=1.9 + 0.5 * len(arms))
    labels: list[str] = []
    for name, arm in arms.items():
        row, left = len(labels), 0.0
        labels.append(style.plain(name, 18))
        for part, colour, hatch in zip(parts, itertools.cycle(colours), itertools.cycle(style.HATCHES), strict=False):
            seconds = arm.compile_parts.get(part) or 0.0
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axis.barh(row, seconds, left=left, height=0.6, label=style.plain(part), **look)
            left += seconds
        axis.annotate(f" {duration(left)} s", (left, row), va="center")
        if arm.compile_warm_seconds is not None:
            warm = arm.compile_warm_seconds
            labels.append("from the cache")
            axis.barh(row + 1, warm, height=0.6, color="white", edgecolor=style.INK, label="from the cache")
            axis.annotate(f" {duration(warm)} s", (warm, row + 1), va="center")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set(xlabel="seconds")
    style.legend(made, [axis], 4)
    return made


def describe_compilation(results: Results) -> str:
    """Describes the seconds of compilation in words."""
    words = (
        f"{name} {duration(arm.compile_seconds)} s, from the cache {duration(arm.compile_warm_seconds)} s"
        for name, arm in ordered_arms(results).items()
    )
    return f"Seconds of compilation: {'; '.join(words)}."
