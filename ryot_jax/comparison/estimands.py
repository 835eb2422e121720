"""States what a run will estimate and how it will be judged, before it measures anything.

The statement is generated from the criteria, so that no unstated criterion decides. It is hashed, written into the run
directory before the first step, and carried into the report: criteria cannot be chosen after the fact.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from ryot_jax.comparison.schema import Criterion, Estimand, Settings
from ryot_jax.comparison.verdict import rules
from ryot_jax.comparison.verdict.declaration import Rule, Terms, resolve
from ryot_jax.runtime.errors import RyotError

__all__ = ["Settings", "check_all_stated", "describe_estimands", "digest", "plain"]

_NOTHING_DECIDES = "none: reported"
_REPORTED = (
    Estimand(
        name="memory", unit="arm", statistic="arguments and temporaries of the compiled step, bytes", criterion=""
    ),
)
_REPORTED_OF_PAIRS = (
    Estimand(
        name="time to target",
        unit="arm",
        statistic="training seconds until the held-out loss reaches the baseline's final one, interpolated between "
        "evaluations; compilation excluded and included",
        criterion="",
    ),
    Estimand(
        name="break-even", unit="arm", statistic="extra seconds of compilation / seconds saved a step", criterion=""
    ),
)


def describe_estimands(settings: Settings, *, statistical: bool) -> tuple[Estimand, ...]:
    """The estimands that decide a run, followed by those that are only reported.

    Args:
      settings: the settings of the run's verdict.
      statistical: as in `Terms`.
    """
    terms = Terms(settings, statistical)
    deciding = tuple(_estimand(rule, terms) for rule in rules.RULES if rule.applies(terms))
    decided = {estimand.name for estimand in deciding}
    reported = [*(_REPORTED_OF_PAIRS if settings.arms == 2 else ()), *_REPORTED]
    return (
        *deciding,
        *(msgspec.structs.replace(e, criterion=_NOTHING_DECIDES) for e in reported if e.name not in decided),
    )


def check_all_stated(criteria: Sequence[Criterion], stated: Sequence[Estimand]) -> None:
    """Refuses a criterion that decides a run but was not stated before it.

    Raises:
      RyotError: a criterion was not stated; the message names it.
    """
    missing = {criterion.name for criterion in criteria} - {estimand.decides for estimand in stated}
    if missing:
        raise RyotError(
            f"{', '.join(sorted(missing))} would decide the run and was not stated before it: declare it in "
            "comparison/verdict/rules.py"
        )


def plain(stated: Sequence[Estimand]) -> list[dict[str, str]]:
    """The statement as JSON values."""
    return [msgspec.to_builtins(estimand) for estimand in stated]


def digest(stated: Sequence[Estimand]) -> str:
    """Sha256 (hex) of the statement as JSON with sorted keys."""
    items: Any = plain(stated)
    return hashlib.sha256(json.dumps(items, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _estimand(rule: Rule, terms: Terms) -> Estimand:
    return Estimand(
        name=rule.estimand,
        unit=resolve(rule.unit, terms),
        statistic=resolve(rule.statistic, terms),
        criterion=resolve(rule.criterion, terms),
        decides=resolve(rule.name, terms),
    )
