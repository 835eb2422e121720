"""Waterfall plot of the effect of each optimization."""

from matplotlib.figure import Figure

from ryot_jax.comparison.attribution import Attribution, Effect
from ryot_jax.comparison.schema import Results
from ryot_jax.comparison.statistics import Interval
from ryot_jax.report.plots import style
from ryot_jax.report.words import duration


def attribution(results: Results) -> Figure | None:
    """Draws a waterfall from the baseline's time per step to that of the full set, one bar per optimization."""
    effects = results.attribution
    steps = [] if effects is None else _waterfall(effects)
    if effects is None or not steps:
        return None
    made, (axis,) = style.figure(height=1.9 + 0.32 * (len(steps) + 2))
    now = effects.baseline_ms
    axis.barh(0, now, height=0.6, color="#8c8c8c", label="whole step")
    for row, (_, factor, ci) in enumerate(steps, start=1):
        after = now / factor
        colour, label = (style.SKY, "saves") if after <= now else (style.ORANGE, "costs")
        hatch = "" if after <= now else "///"
        axis.barh(row, after - now, left=now, height=0.6, color=colour, hatch=hatch, edgecolor="white", label=label)
        ends = [after] if ci is None else [now / ci[1], now / ci[0]]
        if ci is not None:
            axis.plot(ends, [row, row], color=style.INK, marker="|", linewidth=1.6, label="95 % interval")
        axis.annotate(f"{factor:.3f} x  ", (min(now, *ends), row), ha="right", va="center", fontsize=9)
        now = after
    axis.barh(len(steps) + 1, now, height=0.6, color="#8c8c8c", label="whole step")
    axis.set_yticks(range(len(steps) + 2), ["nothing on", *(style.plain(n, 22) for n, _, _ in steps), "all on"])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set(xlabel="ms per step")
    style.legend(made, [axis], 4)
    return made


def describe_attribution(results: Results) -> str:
    """Describes the factors of the waterfall in words."""
    effects = results.attribution
    if effects is None:
        return ""
    words = (f"{name} {factor:.3f}" for name, factor, _ in _waterfall(effects))
    return f"From {duration(effects.baseline_ms)} ms per step, factors by optimization: {', '.join(words)}."


def _waterfall(effects: Attribution) -> list[tuple[str, float, Interval | None]]:
    """Name, factor and interval of each bar: Shapley factors, or without them the effects alone and the interaction."""
    players = effects.players
    if not players:
        return []
    shapley = [player.shapley for player in players if player.shapley is not None and player.shapley.estimate]
    steps: list[tuple[str, Effect]] = [(p.name, effect) for p, effect in zip(players, shapley, strict=False)]
    if len(shapley) < len(players):
        steps = [*((player.name, player.alone) for player in players), ("interaction", effects.interaction)]
    known = [(name, effect.estimate, effect.ci95) for name, effect in steps if effect.estimate]
    return known if len(known) == len(steps) else []
