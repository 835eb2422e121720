"""The style of all plots: size, colours, markers, and escaped names.

Colours are those of Okabe and Ito, which colour-blind people can distinguish; arms also differ in marker and dash.
"""

import functools
from collections.abc import Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY = "#333333", "#595959"
COLOURS = (BLUE, VERMILLION)
MARKERS = ("o", "s")
DASHES = ("-", "--")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
WIDTH = 4.9  # inches: legible two abreast on a wide screen and alone on a telephone
MOST_MARKERS = 120  # per line; with more points every second, third, ... has a marker
MOST_CHARACTERS = 28  # per name in a plot; tables hold the whole name
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that plots are the same on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GREY,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
}


def figure(
    rows: int = 1, columns: int = 1, *, height: float = 3.8, share_x: bool = False, ratios: Sequence[float] = ()
) -> tuple[Figure, list[Axes]]:
    """Makes a figure and its axes without pyplot, which selects a display and keeps figures alive.

    Args:
      rows: number of rows of axes.
      columns: number of columns of axes.
      height: height in inches.
      share_x: whether the axes of a column share one x axis.
      ratios: relative heights of the rows; empty: all equal.
    """
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, sharex=share_x, squeeze=False, height_ratios=ratios or None)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return made, [axis for row in axes for axis in row]


def legend(made: Figure, axes: Sequence[Axes], columns: int = 2) -> None:
    """Adds one legend of all axes below the figure, clear of the curves; each name appears once."""
    handles: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if handles:
        made.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )


def arm_style(index: int, points: int) -> dict[str, Any]:
    """Colour, marker and dash of the arm at `index`; the second arm is dashed, so that equal curves both show."""
    return {
        "color": COLOURS[index % 2],
        "marker": MARKERS[index % 2],
        "markersize": 6 - 2 * (index % 2),
        "markevery": max(1, -(-points // MOST_MARKERS)),
        "linestyle": DASHES[index % 2],
    }


def plain(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text` as a literal label: shortened to `most` characters, without characters that the font lacks.

    Dollar signs are escaped, as matplotlib would read mathematics between two of them.
    """
    font = _font()
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in line)
    line = line if len(line) <= most else line[: most - 3] + "..."
    return line.replace("$", r"\$")


@functools.cache
def _font() -> FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))
