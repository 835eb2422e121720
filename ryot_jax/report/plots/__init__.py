"""The plots of a report, drawn from the results by matplotlib without a display.

`write` saves the plots of `report.md` as PNG files; `svg` renders a plot as an element of HTML.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ryot_jax.comparison.schema import Results
from ryot_jax.report.plots import attribution, compilation, compression, controls, loss, roofline, timing
from ryot_jax.report.plots.style import STYLE
from ryot_jax.report.plots.svg import to_svg

DOTS_PER_INCH = 140


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot of the report.

    Attributes:
      title: title of the plot.
      draw: draws the figure from results; returns None if they have no data for it.
      describe: describes the figure in words with numbers; only for results that have a figure.
    """

    title: str
    draw: Callable[[Results], Figure | None]
    describe: Callable[[Results], str]


PLOTS = {
    "controls": Plot("Controls against their known answers", controls.controls, controls.describe_controls),
    "paired_speedup": Plot(
        "Speed-up by block pair, seed and process", timing.paired_speedup, timing.describe_paired_speedup
    ),
    "paired_loss": Plot("Difference of final losses by seed", loss.paired_loss, loss.describe_paired_loss),
    "convergence": Plot("Held-out loss against training steps", loss.convergence, loss.describe_convergence),
    "wall_clock": Plot("Held-out loss against training seconds", loss.wall_clock, loss.describe_wall_clock),
    "step_time_distribution": Plot(
        "Distribution of step times", timing.step_time_distribution, timing.describe_step_time_distribution
    ),
    "step_time": Plot("Step time over the run", timing.step_time, timing.describe_step_time),
    "compilation": Plot("Seconds of compilation", compilation.compilation, compilation.describe_compilation),
    "attribution": Plot("Attribution waterfall", attribution.attribution, attribution.describe_attribution),
    "roofline": Plot("Roofline", roofline.roofline, roofline.describe_roofline),
    "compression": Plot("Bytes against the rise of perplexity", compression.trade_off, compression.describe_trade_off),
}


def write(directory: pathlib.Path, results: Results) -> dict[str, str]:
    """Draws every plot that has data as a PNG file; returns file names in `directory` by plot name."""
    drawn = {}
    for name, plot in PLOTS.items():
        with _style():
            figure = _titled(plot, results)
            if figure is not None:
                drawn[name] = f"{name}.png"
                # No creation date or version in the file, so that equal results give equal bytes.
                figure.savefig(directory / drawn[name], dpi=DOTS_PER_INCH, metadata={"Software": None})
    return drawn


def svg(name: str, results: Results) -> str | None:
    """The plot `name` as an SVG element with title and description; None if `results` has no data for it."""
    plot = PLOTS[name]
    with _style(name):
        figure = _titled(plot, results)
        return None if figure is None else to_svg(figure, f"plot-{name}", plot.title, plot.describe(results))


def _style(salt: str = "") -> contextlib.AbstractContextManager[None]:
    """A context with the matplotlib settings for one plot. Ids in an SVG are hashes salted with `salt`."""
    settings: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    return matplotlib.rc_context(settings)


def _titled(plot: Plot, results: Results) -> Figure | None:
    figure = plot.draw(results)
    if figure is not None:
        figure.suptitle(plot.title, fontsize="medium")
    return figure
