"""The plots of a report, drawn from the results by matplotlib without a display.

`draw` draws them; each is then saved as a PNG file for `report.md` and rendered as an element of HTML.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
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


class Drawn:
    """A plot's figure, drawn and laid out once for both formats."""

    def __init__(self, name: str, figure: Figure, description: str):
        self._name, self._figure, self._description = name, figure, description

    def svg(self) -> str:
        """The plot as an SVG element with title and description."""
        with self._saving():
            return to_svg(self._figure, f"plot-{self._name}", PLOTS[self._name].title, self._description)

    def save(self, directory: pathlib.Path) -> str:
        """Saves the plot as a PNG file in `directory`; returns the file's name."""
        file = f"{self._name}.png"
        with self._saving():
            # No creation date or version in the file, so that equal results give equal bytes.
            self._figure.savefig(directory / file, dpi=DOTS_PER_INCH, metadata={"Software": None})
        return file

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        with _style(self._name):
            yield
        # The layout takes longer than drawing does, and is the same for both formats.
        self._figure.set_layout_engine("none")


def draw(results: Results) -> dict[str, Drawn]:
    """Draws every plot that has data; returns them by name."""
    drawn = {}
    for name, plot in PLOTS.items():
        with _style(name):
            figure = plot.draw(results)
            if figure is not None:
                figure.suptitle(plot.title, fontsize="medium")
                drawn[name] = Drawn(name, figure, plot.describe(results))
    return drawn


def _style(salt: str) -> contextlib.AbstractContextManager[None]:
    """A context with the matplotlib settings for one plot. Ids in an SVG are hashes salted with `salt`."""
    settings: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    return matplotlib.rc_context(settings)
