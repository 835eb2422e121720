"""Plots of held-out losses: against steps, against seconds, and the difference of the arms with its margins."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ryot_jax.comparison.schema import ArmResult, Results
from ryot_jax.report.plots import style
from ryot_jax.report.words import (
    counted,
    duration,
    interval,
    loss_name,
    loss_unit,
    number,
    of_language_model,
    ordered_arms,
    titled,
)

_ENTROPIES = {"unigram": style.GREY, "bigram": style.GREEN}
_Positions = Callable[[ArmResult], list[float]]
_MOST_PAIRS = 24  # largest number of rows in the plot of loss differences


def convergence(results: Results) -> Figure | None:
    """Draws the held-out loss of every arm against steps, with the target loss and the n-gram entropies as lines."""
    return _curves(results, "training steps", "step", lambda arm: [0, *(epoch.step for epoch in arm.epochs)])


def wall_clock(results: Results) -> Figure | None:
    """Draws the held-out loss of every arm against its training seconds, with the target loss as a line."""
    return _curves(results, "training seconds (compilation and evaluation apart)", "seconds", _seconds)


def paired_loss(results: Results) -> Figure | None:
    """Draws the loss difference of each training pair and of all with its interval, and the margins."""
    comparison = results.comparison
    if comparison is None or comparison.heldout_loss_difference.estimate is None:
        return None
    loss, tests, estimate = (
        comparison.heldout_loss_difference,
        comparison.loss_tests,
        comparison.heldout_loss_difference.estimate,
    )
    pairs = comparison.training_pairs if len(comparison.training_pairs) > 1 else []
    differences = [(pair.seed, pair.loss_difference) for pair in pairs if pair.loss_difference is not None][
        :_MOST_PAIRS
    ]
    made, (axis,) = style.figure(height=2.3 + 0.2 * len(differences))
    axis.axvspan(-tests.tight_margin, tests.tight_margin, color=style.SKY, alpha=0.25, label="tight margin")
    for side in (-1, 1):
        axis.axvline(side * tests.margin, color=style.INK, linestyle="--", linewidth=1.2, label="margin")
    axis.axvline(0.0, color=style.GREY, linestyle=":", linewidth=1.2)
    for row, (_, difference) in enumerate(differences):
        axis.plot(difference, row, "o", color=style.BLUE, label="training pair")
    last = len(differences)
    if loss.ci95 is not None:
        axis.plot(loss.ci95, [last, last], color=style.VERMILLION, linewidth=2.5, label="95 % interval")
    axis.plot(estimate, last, "D", color=style.VERMILLION, label="mean")
    axis.set_yticks(
        range(last + 1), [*(f"seed {seed}" for seed, _ in differences), "all" if differences else "one pair"]
    )
    axis.set_ylim(last + 0.6, -0.6)
    axis.margins(x=0.08)
    names = f"{comparison.optimized} - {comparison.baseline}"
    axis.set_xlabel(style.plain(titled(f"{loss_name(results)}, {names}", loss_unit(results)), 54))
    style.legend(made, [axis], 3)
    return made


def describe_convergence(results: Results) -> str:
    """Describes the curves in words."""
    arms = (
        f"{name} from {number(arm.initial_heldout_loss)} to {number(arm.final_heldout_loss)}"
        for name, arm in ordered_arms(results).items()
    )
    entropies = results.entropies
    lines = [f"{kind} entropy {entropies[kind]:.3f}" for kind in _ENTROPIES if entropies.get(kind) is not None]
    return f"{_loss_label(results)}: {', '.join([*arms, *lines])}{_target_label(results)}."


def describe_wall_clock(results: Results) -> str:
    """Describes the ends of the curves in words."""
    arms = (
        f"{name} ends at {number(arm.final_heldout_loss)} after {duration(arm.train_seconds)} s"
        for name, arm in ordered_arms(results).items()
    )
    return f"{_loss_label(results)} against training seconds: {', '.join(arms)}{_target_label(results)}."


def describe_paired_loss(results: Results) -> str:
    """Describes the loss difference and its margins in words."""
    loss, tests = results.compared.heldout_loss_difference, results.compared.loss_tests
    return (
        f"Optimized minus baseline: {number(loss.estimate, '+.4f')}{loss_unit(results)}, 95 % interval "
        f"{interval(loss.ci95, '+.4f')}, {counted(loss.pairs, loss.unit)}; margin {tests.margin:g}, "
        f"tight margin {tests.tight_margin:g}."
    )


def _loss_label(results: Results) -> str:
    return f"{loss_name(results).capitalize()}{' in nats per token' if of_language_model(results) else ''}"


def _curves(results: Results, xlabel: str, axis_name: str, positions: _Positions) -> Figure | None:
    """Draws the curves of all arms; `axis_name` is the field of `time_to_target` in the unit of the x axis."""
    curves = {name: _known(positions(arm), _losses(arm)) for name, arm in ordered_arms(results).items()}
    if not any(len(x) > 1 for x, _ in curves.values()):
        return None
    made, (axis,) = style.figure()
    for index, (name, (x, losses)) in enumerate(curves.items()):
        axis.plot(x, losses, label=style.plain(name), **style.arm_style(index, len(x)))
    for kind, colour in _ENTROPIES.items():
        entropy = results.entropies.get(kind)
        if entropy is not None:
            axis.axhline(entropy, color=colour, linestyle=":", linewidth=1.6, label=f"{kind} entropy {entropy:.2f}")
    _draw_target(axis, results, axis_name)
    axis.set(xlabel=xlabel, ylabel=titled(loss_name(results), loss_unit(results)))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    style.legend(made, [axis])
    return made


def _draw_target(axis: Axes, results: Results, axis_name: str) -> None:
    target = _target(results)
    if target is None:
        return
    axis.axhline(target, color=style.PURPLE, linestyle="-.", linewidth=1.6, label=f"target {target:.2f}")
    bottom = axis.get_ylim()[0]
    axis.set_ylim(bottom=bottom)
    for index, name in enumerate(ordered_arms(results)):
        reached = getattr(results.compared.time_to_target.arms[name], axis_name)
        if reached is not None:
            # A line from the target down to the axis, where the position is read.
            look: dict[str, Any] = {"color": style.COLOURS[index], "linestyle": style.DASHES[index]}
            axis.vlines(reached, bottom, target, linewidth=1.6, **look)
            axis.plot(reached, target, "x", color=style.COLOURS[index], markersize=8, markeredgewidth=2)


def _target(results: Results) -> float | None:
    comparison = results.comparison
    return None if comparison is None else comparison.time_to_target.target_loss


def _target_label(results: Results) -> str:
    target = _target(results)
    if target is None:
        return ""
    return f"; target {target:.4f}, the baseline's final loss, with a cross where each arm reaches it"


def _losses(arm: ArmResult) -> list[float | None]:
    return [arm.initial_heldout_loss, *(epoch.heldout_loss for epoch in arm.epochs)]


def _seconds(arm: ArmResult) -> list[float]:
    seconds = [0.0]
    for epoch in arm.epochs:
        seconds.append(seconds[-1] + epoch.seconds)
    return seconds


def _known(x: Sequence[float], losses: Sequence[float | None]) -> tuple[list[float], list[float]]:
    known = [(position, loss) for position, loss in zip(x, losses, strict=True) if loss is not None]
    return [position for position, _ in known], [loss for _, loss in known]
