"""Rules for single config fields, and the sentences that report a broken one.

Packages declare their own choices and ranges; `ryot_jax.config` applies all of them to a config file at once.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ryot_jax.runtime.suggestions import did_you_mean

Choices = Mapping[str, tuple[str, ...]]
"""Field -> the allowed names."""

Ranges = Mapping[str, tuple[float, float | None]]
"""Field -> the smallest allowed value, and the exclusive upper bound (None: no bound)."""


def broken(field: str, value: Any, rule: str) -> str:
    """A line that reports a broken rule: the field's dotted path, its value, the rule."""
    return f"{field} = {value!r} {rule}"


def in_section(section: str, rules: Mapping[str, Any]) -> dict[str, Any]:
    """The rules keyed by dotted path instead of field name."""
    return {f"{section}.{field}": rule for field, rule in rules.items()}


def wrong_choices(values: Mapping[str, Any], choices: Choices) -> Iterator[str]:
    """Yields a line for each value that is not among its field's choices; `values` has the keys of `choices`."""
    for field, names in choices.items():
        if values[field] not in names:
            hint = did_you_mean(str(values[field]), names)
            yield broken(field, values[field], f"must be one of {', '.join(names)}{hint}")


def out_of_range(values: Mapping[str, Any], ranges: Ranges) -> Iterator[str]:
    """Yields a line for each value that is outside its field's range or not finite."""
    for field, (low, high) in ranges.items():
        value = values[field]
        if not (low <= value and (high is None or value < high) and math.isfinite(value)):
            upper = "" if high is None else f" and below {high}"
            yield broken(field, value, f"must be at least {low}{upper}")


def not_positive(values: Mapping[str, Any], fields: Iterable[str]) -> Iterator[str]:
    """Yields a line for each value that is zero, negative or not finite."""
    for field in fields:
        if not (values[field] > 0 and math.isfinite(values[field])):
            yield broken(field, values[field], "must be above 0")


def uneven_batch(batch_size: int, n_devices: int, accumulation: int = 1) -> str | None:
    """The rule that a batch breaks if it cannot be split evenly over accumulation parts and devices; None if it can.

    Args:
      batch_size: sequences per step.
      n_devices: number of devices that share each part.
      accumulation: number of sequential parts of a step; divides `batch_size`.
    """
    part = batch_size // accumulation
    if part % n_devices == 0:
        return None
    share = f"training.batch_size / training.accumulation = {part}"
    return f"cannot be divided over {n_devices} devices: {share} must be a multiple of {n_devices}"
