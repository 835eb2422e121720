"""Migrates `results.json` of earlier versions to the latest one."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ryot_jax.comparison.schema import SCHEMA_VERSION, Criterion, Results, Settings
from ryot_jax.comparison.verdict import rules
from ryot_jax.comparison.verdict.declaration import Terms, resolve

MIGRATED_VERSIONS = (2,)


def migrated(value: Mapping[str, Any], convert: Callable[[Mapping[str, Any]], Results]) -> Results:
    """Migrates the results of a file of version 2.

    Version 2 stored the words of criteria alone; advice was looked up by name when a report was drawn. Migrated
    criteria therefore have no readings, and the advice of the current declarations.

    Args:
      value: the JSON values of the file.
      convert: converts JSON values of the latest version.

    Raises:
      ValueError: a field is missing or of another type.
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
