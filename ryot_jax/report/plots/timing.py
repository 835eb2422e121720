"""Plots of step times: by block pair over the run, their distribution, and the ratios of the arms."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ryot_jax.comparison.schema import BlockTimes, ComparisonResult, Results
from ryot_jax.report.plots import style
from ryot_jax.report.words import counted, duration, interval, number, percent

_MOST_ROWS = 24  # largest number of training pairs and processes in the forest plot


def step_time(results: Results) -> Figure | None:
    """Draws the milliseconds per step of every block pair, and below them the speed-up with its interval."""
    blocks = _blocks(results)
    if not blocks:
        return None
    speed = results.compared.step_time_speedup
    index = [block.index + 1 for block in blocks]
    made, (times, ratios) = style.figure(2, height=4.8, share_x=True)
    milliseconds = _milliseconds(results)
    for number_, name in enumerate(milliseconds):
        times.plot(index, milliseconds[name], label=style.plain(name), **style.arm_style(number_, len(blocks)))
    times.set_ylabel("ms per step")
    # The axis starts at zero, so that the gap between the lines is in true proportion.
    times.set_ylim(0, 1.1 * max(values.max() for values in milliseconds.values()) or 1.0)
    if speed.ci95 is not None:
        ratios.axhspan(*speed.ci95, color=style.PURPLE, alpha=0.3, label="95 % interval of the mean")
    known = [(i, block.ratio) for i, block in zip(index, blocks, strict=True) if block.ratio is not None]
    every = max(1, -(-len(known) // style.MOST_MARKERS))
    look: dict[str, Any] = {
        "color": style.INK,
        "linestyle": "none" if every == 1 else "-",
        "linewidth": 0.8,
        "markevery": every,
    }
    ratios.plot([i for i, _ in known], [r for _, r in known], marker=".", label="block pair", **look)
    ratios.set(xlabel="block pair", ylabel="speed-up (ratio)")
    ratios.margins(y=0.25)
    ratios.xaxis.set_major_locator(MaxNLocator(integer=True))
    made.align_ylabels()
    style.legend(made, [times, ratios])
    return made


def step_time_distribution(results: Results) -> Figure | None:
    """Draws the share of blocks at or below each time per step, each arm on its own scale."""
    milliseconds = _milliseconds(results)
    if not milliseconds:
        return None
    made, axes = style.figure(1, 2, height=3.4)
    for index, (axis, (name, values)) in enumerate(zip(axes, milliseconds.items(), strict=True)):
        sorted_n = np.sort(values)
        share_n = np.arange(1, sorted_n.size + 1) / sorted_n.size
        axis.step(sorted_n, share_n, where="post", **style.arm_style(index, sorted_n.size))
        axis.axvline(float(np.median(values)), color=style.GREY, linestyle=":", linewidth=1.4)
        axis.set_ylim(0, 1.05)
        axis.set(xlabel="ms per step", title=f"{style.plain(name, 18)}\nmedian {duration(float(np.median(values)))} ms")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes[0].set_ylabel("share of blocks")
    return made


def paired_speedup(results: Results) -> Figure | None:
    """Draws the speed-up of every block pair, training pair and process, and overall with its interval, beside 1."""
    comparison = results.comparison
    if comparison is None or comparison.step_time_speedup.estimate is None:
        return None
    speed, estimate = comparison.step_time_speedup, comparison.step_time_speedup.estimate
    blocks = [(b.order[:1], b.ratio, b.index + 1) for b in speed.blocks if b.ratio is not None]
    rows = _levels(comparison)
    made, (pairs, levels) = style.figure(
        2, height=3.9 + 0.2 * len(rows), share_x=True, ratios=(2.4, 0.6 + 0.25 * len(rows))
    )
    for name, marker, colour, face in (
        (comparison.baseline, "o", style.BLUE, style.BLUE),
        (comparison.optimized, "^", style.VERMILLION, "white"),
    ):
        chosen = [(ratio, index) for first, ratio, index in blocks if first == (name,)]
        every = max(1, -(-len(chosen) // style.MOST_MARKERS))
        pairs.plot(
            [ratio for ratio, _ in chosen][::every], [index for _, index in chosen][::every],
            marker, color=colour, markerfacecolor=face, markersize=5, label=f"{style.plain(name, 14)} first",
        )  # fmt: skip
    pairs.invert_yaxis()
    pairs.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    pairs.set_ylabel("block pair")
    for row, (_, ratio) in enumerate(rows):
        levels.plot(ratio, row, "s", color=style.INK, markersize=5)
    if speed.ci95 is not None:
        levels.plot(speed.ci95, [len(rows)] * 2, color=style.VERMILLION, linewidth=2.5, label="95 % interval")
    levels.plot(estimate, len(rows), "D", color=style.VERMILLION, label="mean")
    levels.set_yticks(range(len(rows) + 1), [*(label for label, _ in rows), "all"])
    levels.set_ylim(len(rows) + 0.7, -0.7)
    levels.set_xlabel("speed-up (baseline / optimized seconds)")
    floor = None if results.controls is None else results.controls.noise_floor
    for axis in (pairs, levels):
        axis.axvline(1.0, color=style.INK, linestyle=":", linewidth=1.4, label="no speed-up")
        if floor is not None:
            axis.axvspan(1 / (1 + floor), 1 + floor, color=style.GREY, alpha=0.25, label="noise floor")
    style.legend(made, [pairs, levels], 3)
    return made


def describe_step_time(results: Results) -> str:
    """Describes the drift of the step times in words."""
    words = (
        f"{name} between {duration(values.min())} and {duration(values.max())} ms, {duration(values[0])} in the first "
        f"block and {duration(values[-1])} in the last"
        for name, values in _milliseconds(results).items()
    )
    return f"Time per step of each block: {'; '.join(words)}. Below: speed-up of each block pair."


def describe_step_time_distribution(results: Results) -> str:
    """Describes the quartiles of the step times in words."""
    words = (
        f"{name} lower quartile {duration(low)}, median {duration(middle)}, upper quartile {duration(high)} ms"
        for name, values in _milliseconds(results).items()
        for low, middle, high in [np.quantile(values, (0.25, 0.5, 0.75))]
    )
    return f"Cumulative distribution of the time per step over blocks: {'; '.join(words)}."


def describe_paired_speedup(results: Results) -> str:
    """Describes estimate, spread and noise floor of the speed-up in words."""
    comparison, controls = results.compared, results.controls
    speed = comparison.step_time_speedup
    ratios = [block.ratio for block in speed.blocks if block.ratio is not None]
    spread = f"block pairs from {min(ratios):.3f} to {max(ratios):.3f}; " if ratios else ""
    floor = "" if controls is None else f"; noise floor {percent(controls.noise_floor)}"
    return (
        f"Speed-up as ratio of seconds: {spread}in all {number(speed.estimate)}, 95 % interval "
        f"{interval(speed.ci95)}, {counted(speed.pairs, comparison.unit)}{floor}."
    )


def _levels(comparison: ComparisonResult) -> list[tuple[str, float]]:
    """Speed-ups of the repetitions above blocks: training pairs by seed, and fresh processes."""
    pairs = comparison.training_pairs if len(comparison.training_pairs) > 1 else []
    rows = [(f"seed {pair.seed}", pair.speedup) for pair in pairs]
    rows += [(f"process {process.index}", process.speedup) for process in comparison.processes]
    return [(label, ratio) for label, ratio in rows if ratio is not None][:_MOST_ROWS]


def _blocks(results: Results) -> list[BlockTimes]:
    comparison = results.comparison
    return [] if comparison is None else list(comparison.step_time_speedup.blocks)


def _milliseconds(results: Results) -> dict[str, np.ndarray]:
    """Milliseconds per step of every block by arm, the baseline first; empty without blocks."""
    blocks = _blocks(results)
    if not blocks:
        return {}
    comparison = results.compared
    return {
        name: np.array([1e3 * block.seconds[name] / block.steps for block in blocks])
        for name in (comparison.baseline, comparison.optimized)
    }
