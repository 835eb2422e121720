"""Reads `results.json` of earlier versions: the JSON values of one as those of the latest."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ryot_jax.comparison.schema import SCHEMA_VERSION, Criterion, Results, Settings
from ryot_jax.comparison.verdict import rules
from ryot_jax.comparison.verdict.declaration import Terms, resolve

MIGRATED_VERSIONS = (2,)


def migrated(value: Mapping[str, Any], convert: Callable[[Mapping[str, Any]], Results]) -> Results:
    """The results in a file of version 2.

    Criteria had words alone there, and advice was found by their names when a report was drawn; so they have no
    readings, and advice by the present declarations.

    Args:
      value: the JSON values of the file.
      convert: reads the latest version.

    Raises:
      ValueError: from `convert`.
    """
    results = convert({**value, "schema_version": SCHEMA_VERSION})
    settings = msgspec.structs.replace(results.settings, arms=len(results.arms))
    ours = "unigram" in results.entropies
    advised = tuple(_advised(criterion, settings, ours=ours) for criterion in results.criteria)
    return msgspec.structs.replace(results, settings=settings, criteria=advised)


def _advised(criterion: Criterion, settings: Settings, *, ours: bool) -> Criterion:
    for rule in rules.RULES:
        if criterion.name in {resolve(rule.name, Terms(settings, statistical)) for statistical in (False, True)}:
            advice = rule.advice.get(criterion.verdict)
            text = None if advice is None else advice.ours if ours else advice.supplied
            return msgspec.structs.replace(criterion, advice=text)
    return criterion
