"""The plots of a report, drawn by matplotlib from the results dict without a display.

Colours are those of Okabe and Ito, told apart by colour-blind people; arms differ in marker too.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ryot_jax.report.summary import Results, ordered_arms

COLOURS = ("#0072B2", "#D55E00")
MARKERS = ("o", "s")
ENTROPIES = {"unigram": "#555555", "bigram": "#009E73"}
DOTS_PER_INCH = 120


def write(directory: pathlib.Path, results: Results) -> dict[str, str]:
    """Draw every plot that `results` has data for; returns file names in `directory` by plot name."""
    drawn = {}
    for name, draw in PLOTS.items():
        figure = draw(results)
        if figure is not None:
            drawn[name] = f"{name}.png"
            # No creation date or version in the file: the same results give the same bytes.
            figure.savefig(directory / drawn[name], dpi=DOTS_PER_INCH, metadata={"Software": None})
    return drawn


def convergence(results: Results) -> Figure | None:
    """Held-out loss of every arm against steps, with the entropies of the same targets as lines."""
    curves = {name: _curve(arm) for name, arm in ordered_arms(results).items()}
    if not any(steps for steps, _ in curves.values()):
        return None
    figure, axes = _figure(1)
    axis = axes[0]
    for index, (name, (steps, losses)) in enumerate(curves.items()):
        # The second arm is drawn dashed over the first: where they coincide both stay visible.
        axis.plot(
            steps,
            losses,
            color=COLOURS[index % 2],
            marker=MARKERS[index % 2],
            markersize=7 - 3 * (index % 2),
            linestyle=("-", "--")[index % 2],
            label=_plain(name),
        )
    # The labels stand beside the axes, where no curve can run through them.
    for kind, colour in ENTROPIES.items():
        entropy = results["data"]["entropies"][kind]
        axis.axhline(entropy, color=colour, linestyle=":", linewidth=1.5)
        axis.text(
            1.01,
            entropy,
            f"{kind}\nentropy\n{entropy:.2f}",
            transform=axis.get_yaxis_transform(),
            va="center",
            color=colour,
        )
    axis.set(xlabel="training steps", ylabel="held-out loss (nats/token)", title=_plain(results["name"]))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    return figure


def step_time(results: Results) -> Figure | None:
    """Milliseconds per step of every block pair, and the speed-up with its interval below."""
    comparison = results["comparison"]
    if comparison is None or not comparison["step_time_speedup"]["blocks"]:
        return None
    speed = comparison["step_time_speedup"]
    blocks = speed["blocks"]
    index = [block["index"] + 1 for block in blocks]
    figure, (times, ratios) = _figure(2)
    for number, name in enumerate((comparison["baseline"], comparison["optimized"])):
        milliseconds = [1e3 * block["seconds"][name] / block["steps"] for block in blocks]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": ("-", "--")[number]}
        times.plot(index, np.array(milliseconds), label=_plain(name), **style)
    times.set(ylabel="ms per step", title="step time by block pair")
    # From zero, so that the gap between the lines is seen at its true proportion.
    times.set_ylim(0, 1.1 * max(line.get_ydata().max() for line in times.get_lines()))
    times.legend(frameon=False, ncols=2, loc="lower right")
    if speed["ci95"] is not None:
        ratios.axhspan(*speed["ci95"], color="#CC79A7", alpha=0.25, label="95 % interval of the mean")
    known = [(i, block["ratio"]) for i, block in zip(index, blocks, strict=True) if block["ratio"] is not None]
    ratios.plot([i for i, _ in known], [r for _, r in known], "k.", label="block pair")
    ratios.axhline(1.0, color="#555555", linestyle=":", linewidth=1.5)
    ratios.set(xlabel="block pair", ylabel="speed-up (ratio)")
    ratios.margins(y=0.25)
    ratios.xaxis.set_major_locator(MaxNLocator(integer=True))
    ratios.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.28))
    figure.align_ylabels()
    return figure


PLOTS = {"convergence": convergence, "step_time": step_time}


def _curve(arm: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    points = [(0, arm["initial_heldout_loss"])]
    points += [(epoch["step"], epoch["heldout_loss"]) for epoch in arm["epochs"]]
    known = [(step, loss) for step, loss in points if loss is not None]
    return [step for step, _ in known], [loss for _, loss in known]


def _figure(rows: int) -> tuple[Figure, list]:
    """A figure of stacked axes that share x; without pyplot, which picks a display and keeps figures."""
    figure = Figure(figsize=(8.0, 4.8 if rows == 1 else 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes)


def _plain(text: str) -> str:
    """`text` with the dollar sign escaped: matplotlib would read what is between two as mathematics."""
    return text.replace("$", r"\$")
