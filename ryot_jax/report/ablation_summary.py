"""The outcome of an ablation for a terminal: one sentence, the effects of each optimization, and how they meet.

Plain ASCII of at most 100 columns, drawn from the content of `attribution.json` alone.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ryot_jax.comparison.attribution import MOST_IN_ALL_SUBSETS
from ryot_jax.report import terminal
from ryot_jax.report.parts import Table
from ryot_jax.report.words import NOTHING, interval, number

_WIDTH = 100


def lines(document: Mapping[str, Any]) -> list[str]:
    """The summary of an ablation, line by line.

    Args:
      document: the content of `attribution.json`.
    """
    found = document["attribution"]
    tests = sum(player[kind]["p"] is not None for player in found["players"] for kind in ("alone", "left_out"))
    return [
        *_wrapped(
            f"With {_all(found['players'])} on, a step is {_ratio(found['total'])} times as fast: "
            f"{found['full_ms']:,.2f} ms instead of {found['baseline_ms']:,.2f}. Ranges are 95 % intervals over "
            f"{found['rounds']} rounds."
        ),
        "",
        *_effects(found["players"]),
        "",
        *_wrapped("Alone: time of the baseline / time of the baseline with it on. Above 1 it helps.", "  "),
        *_wrapped("Left out: time of all but it / time of all. Above 1 it helps beside the others.", "  "),
        *_wrapped(f"Holm p: that the ratio is 1 (sign-flip test), corrected for all {tests} of these tests.", "  "),
        "",
        *_shares(found),
        "",
        *_wrapped(_interaction(found)),
        *(line for warning in document["warnings"] for line in _wrapped(f"warning: {warning}", "  ")),
    ]


def _all(players: Sequence[Mapping[str, Any]]) -> str:
    return players[0]["name"] if len(players) == 1 else f"all {len(players)} optimizations"


def _effects(players: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ("optimization", "implementation", "alone", "Holm p", "left out", "Holm p")
    rows = [
        (
            player["name"],
            player["implementation"],
            _ratio(player["alone"]),
            _p(player["alone"]["p_holm"]),
            _ratio(player["left_out"]),
            _p(player["left_out"]["p_holm"]),
        )
        for player in players
    ]
    return _grid(header, rows)


def _shares(found: Mapping[str, Any]) -> list[str]:
    players = found["players"]
    if any(player["shapley"] is None for player in players):
        return _wrapped(
            f"No Shapley factors: they need the times of all {2 ** len(players)} subsets, which are taken of up to "
            f"{MOST_IN_ALL_SUBSETS} optimizations; --only chooses some."
        )
    rows = [(player["name"], _ratio(player["shapley"])) for player in players]
    product = math.prod(player["shapley"]["estimate"] for player in players)
    return [
        *_grid(("optimization", "Shapley factor"), [*rows, ("product of all", number(product))]),
        "",
        *_wrapped("Shapley factor: what switching it on brings, mean over all orders of switching on.", "  "),
    ]


def _interaction(found: Mapping[str, Any]) -> str:
    """Whether the parts multiply, in words."""
    interaction, total = found["interaction"], found["total"]["estimate"]
    if interaction["estimate"] is None:
        return "Interaction: not known, as not every optimization was timed alone."
    if len(found["players"]) == 1:
        return "Interaction: none, as there is one optimization."
    product = total / interaction["estimate"]
    text = (
        f"Interaction: the effects alone multiply to {number(product)}, all together give {number(total)}, which is "
        f"{_ratio(interaction)} times that: "
    )
    if interaction["ci95"] is None:
        return f"{text}too few rounds to tell it from 1."
    low, high = interaction["ci95"]
    if low > 1.0:
        return f"{text}together they give more than each by itself would suggest; some pay only beside others."
    if high < 1.0:
        return f"{text}together they give less than each by itself would suggest; some save the same time."
    return f"{text}this cannot be told from 1, at which the parts multiply."


def _ratio(effect: Mapping[str, Any]) -> str:
    if effect["estimate"] is None:
        return NOTHING
    return f"{effect['estimate']:.3f} ({interval(effect['ci95'])})"


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _grid(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return terminal.grid(Table("", header, tuple(rows)), _WIDTH).splitlines()


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent)
