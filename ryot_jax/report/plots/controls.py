"""Plot of the controls against their known answers."""

import numpy as np
from matplotlib.figure import Figure

from ryot_jax.comparison.schema import Control, Results
from ryot_jax.report.plots import style
from ryot_jax.report.words import interval, number, spaced


def controls(results: Results) -> Figure | None:
    """Draws the ratio of times of each timing control: block pairs, interval, and the true ratio."""
    timed = _timed_controls(results)
    if not timed:
        return None
    made, (axis,) = style.figure(height=1.7 + 0.5 * len(timed))
    for row, (control, estimate) in enumerate(timed):
        ratios = control.ratios
        spread = np.linspace(-0.22, 0.22, len(ratios)) if len(ratios) > 1 else np.zeros(len(ratios))
        axis.plot(ratios, row + spread, ".", color=style.GREY, alpha=0.6, label="block pair")
        if control.ci is not None:
            axis.plot(control.ci, [row, row], color=style.BLUE, linewidth=2.5, label="interval")
        axis.plot(estimate, row, "o", color=style.BLUE, label="measured")
        if control.injected is not None:
            axis.plot([control.injected] * 2, [row - 0.3, row + 0.3], color=style.VERMILLION, label="true")
    axis.axvline(1.0, color=style.INK, linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(timed)), [style.plain(spaced(c.name), 20) for c, _ in timed])
    axis.set_ylim(len(timed) - 0.45, -0.55)
    axis.set(xlabel="ratio of times, control / reference")
    style.legend(made, [axis], 4)
    return made


def describe_controls(results: Results) -> str:
    """Describes the controls in words."""
    words = (
        f"{spaced(c.name)} {number(c.estimate, '.4f')} (interval {interval(c.ci, '.4f')}), true ratio "
        f"{number(c.injected, '.4g')}"
        for c, _ in _timed_controls(results)
    )
    return f"Ratio of times, control over reference: {'; '.join(words)}."


def _timed_controls(results: Results) -> list[tuple[Control, float]]:
    """The timing controls, each with its ratio of times."""
    if results.controls is None:
        return []
    return [(control, control.estimate) for control in results.controls.items if control.estimate is not None]
