"""The effect of each optimization, as measured by `ryot ablate`."""

from ryot_jax.comparison.attribution import Effect
from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table
from ryot_jax.report.words import NOTHING, counted, duration, interval, number


def sentence(results: Results) -> str | None:
    """One sentence on the total speed-up and the interaction of optimizations; None without an ablation."""
    attribution = results.attribution
    if attribution is None:
        return None
    total, interaction = attribution.total, attribution.interaction
    text = (
        f"Attribution: all {len(attribution.players)} optimizations together are {number(total.estimate)} times as "
        f"fast (95 % interval {interval(total.ci95)})"
    )
    if interaction.estimate is not None:
        text += (
            f"; that is {interaction.estimate:.3f} times the product of each alone "
            f"(95 % interval {interval(interaction.ci95)}; 1 means that they multiply)"
        )
    return text + "."


def table(results: Results) -> Table | None:
    """Table of the effect of each optimization alone, left out, and by Shapley value; None without an ablation."""
    attribution = results.attribution
    if attribution is None:
        return None
    header = ("optimization", "implementation", "alone", "p (Holm)", "left out", "p (Holm)", "Shapley factor")
    rows = [
        (
            player.name,
            player.implementation,
            _with_interval(player.alone),
            number(player.alone.p_holm, ".2g"),
            _with_interval(player.left_out),
            number(player.left_out.p_holm, ".2g"),
            NOTHING if player.shapley is None else _with_interval(player.shapley),
        )
        for player in attribution.players
    ]
    rows.append(("all together", "", _with_interval(attribution.total), "", "", "", ""))
    rows.append(("interaction", "", _with_interval(attribution.interaction), "", "", "", ""))
    caption = f"Speed-up by optimization (ratios with 95 % intervals, {counted(attribution.rounds, 'round')})"
    return Table(caption, header, tuple(rows), numeric=True)


def section(results: Results) -> list[Part | None]:
    """The section on the effects; empty without an ablation."""
    if results.attribution is None:
        return []
    attribution = results.attribution
    return [
        Paragraph(
            f"{sentence(results)} A step takes {duration(attribution.baseline_ms)} ms with nothing on "
            f"and {duration(attribution.full_ms)} ms with everything on. Alone: baseline / (baseline + it). Left "
            "out: (everything - it) / everything. p values are corrected for their number after Holm. Shapley "
            "factors average over all orders of switching on; their product is the whole speed-up."
        ),
        Pictures(("attribution",)),
        table(results),
    ]


def _with_interval(value: Effect) -> str:
    if value.estimate is None:
        return NOTHING
    return f"{value.estimate:.3f} ({interval(value.ci95)})"
