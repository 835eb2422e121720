"""The outcome of an ablation for a terminal: one sentence, the effect of each optimization, and their interaction.

Plain ASCII of at most 100 columns, a pure function of the attribution.
"""

import math
import textwrap
from collections.abc import Sequence

from ryot_jax.comparison.attribution import MOST_IN_ALL_SUBSETS, Attribution, Effect, PlayerEffects
from ryot_jax.report.formats.grid import grid
from ryot_jax.report.parts import Table
from ryot_jax.report.words import NOTHING, interval, number

_WIDTH = 100


def lines(effects: Attribution, warnings: Sequence[str]) -> list[str]:
    """The summary of an ablation, line by line.

    Args:
      effects: the effect of each optimization.
      warnings: sentences for the reader.
    """
    tests = sum(effect.p is not None for player in effects.players for effect in (player.alone, player.left_out))
    return [
        *_wrapped(
            f"With {_all(effects.players)} on, a step is {_ratio(effects.total)} times as fast: "
            f"{effects.full_ms:,.2f} ms instead of {effects.baseline_ms:,.2f}. Ranges are 95 % intervals over "
            f"{effects.rounds} rounds."
        ),
        "",
        *_effects(effects.players),
        "",
        *_wrapped("Alone: time of the baseline / time of the baseline with it on. Above 1 it helps.", "  "),
        *_wrapped("Left out: time of all but it / time of all. Above 1 it helps beside the others.", "  "),
        *_wrapped(f"Holm p: that the ratio is 1 (sign-flip test), corrected for all {tests} of these tests.", "  "),
        "",
        *_shares(effects),
        "",
        *_wrapped(_interaction(effects)),
        *(line for warning in warnings for line in _wrapped(f"warning: {warning}", "  ")),
    ]


def _all(players: Sequence[PlayerEffects]) -> str:
    return players[0].name if len(players) == 1 else f"all {len(players)} optimizations"


def _effects(players: Sequence[PlayerEffects]) -> list[str]:
    header = ("optimization", "implementation", "alone", "Holm p", "left out", "Holm p")
    rows = [
        (
            player.name,
            player.implementation,
            _ratio(player.alone),
            _p(player.alone.p_holm),
            _ratio(player.left_out),
            _p(player.left_out.p_holm),
        )
        for player in players
    ]
    return _grid(header, rows)


def _shares(effects: Attribution) -> list[str]:
    players = effects.players
    shapley = [player.shapley for player in players if player.shapley is not None]
    if len(shapley) < len(players):
        return _wrapped(
            f"No Shapley factors: they need the times of all {2 ** len(players)} subsets, which are taken of up to "
            f"{MOST_IN_ALL_SUBSETS} optimizations; --only chooses some."
        )
    rows = [(player.name, _ratio(effect)) for player, effect in zip(players, shapley, strict=True)]
    product = math.prod(effect.estimate or 0.0 for effect in shapley)
    return [
        *_grid(("optimization", "Shapley factor"), [*rows, ("product of all", number(product))]),
        "",
        *_wrapped("Shapley factor: what switching it on brings, mean over all orders of switching on.", "  "),
    ]


def _interaction(effects: Attribution) -> str:
    """Describes the interaction in words: whether the effects multiply."""
    interaction, total = effects.interaction, effects.total.estimate
    if interaction.estimate is None:
        return "Interaction: not known, as not every optimization was timed alone."
    if len(effects.players) == 1:
        return "Interaction: none, as there is one optimization."
    product = (total or 0.0) / interaction.estimate
    text = (
        f"Interaction: the effects alone multiply to {number(product)}, all together give {number(total)}, which is "
        f"{_ratio(interaction)} times that: "
    )
    if interaction.ci95 is None:
        return f"{text}too few rounds to tell it from 1."
    low, high = interaction.ci95
    if low > 1.0:
        return f"{text}together they give more than each by itself would suggest; some pay only beside others."
    if high < 1.0:
        return f"{text}together they give less than each by itself would suggest; some save the same time."
    return f"{text}this cannot be told from 1, at which the parts multiply."


def _ratio(effect: Effect) -> str:
    if effect.estimate is None:
        return NOTHING
    return f"{effect.estimate:.3f} ({interval(effect.ci95)})"


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _grid(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return grid(Table("", header, tuple(rows)), _WIDTH).splitlines()


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent)
