"""Judges a run by the criteria declared in `verdict.rules`: PASS, FAIL or INCONCLUSIVE for each, and overall.

A pure function of numbers, which `results` and `statistics` supply.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence

from ryot_jax.comparison.schema import Criterion, Reading, Settings, Verdict
from ryot_jax.comparison.schema.criteria import Comparison
from ryot_jax.comparison.verdict import prose, rules
from ryot_jax.comparison.verdict.declaration import Quantity, Rule, Terms, resolve
from ryot_jax.comparison.verdict.observations import ArmOutcome, Observations, PairOutcome
from ryot_jax.comparison.verdict.prose import counted
from ryot_jax.runtime.errors import EXIT_CRITERION, EXIT_INCONCLUSIVE, EXIT_PASS

__all__ = [
    "EXIT_CODES",
    "ArmOutcome",
    "Criterion",
    "Observations",
    "PairOutcome",
    "Terms",
    "Verdict",
    "counted",
    "judge",
    "learning",
    "overall",
]

EXIT_CODES: Mapping[str, int] = {"PASS": EXIT_PASS, "FAIL": EXIT_CRITERION, "INCONCLUSIVE": EXIT_INCONCLUSIVE}
_HOLDS: Mapping[Comparison, Callable[[float, float], bool]] = {
    "above": operator.gt,
    "below": operator.lt,
    "at most": operator.le,
    "equal": operator.eq,
    "within": lambda value, threshold: abs(value) < threshold,
}


def judge(observed: Observations, terms: Terms) -> tuple[Criterion, ...]:
    """Judges a run by every criterion that applies, in the order of declaration.

    Args:
      observed: the measurements.
      terms: the terms of the run, known before its first step; they select the criteria that apply.
    """
    return _judged(rules.RULES, observed, terms)


def learning(
    arms: Mapping[str, Sequence[ArmOutcome]], entropies: Mapping[str, float], beat: str
) -> tuple[Criterion, ...]:
    """Judges by the criteria of learning alone.

    Args:
      arms: outcomes of each arm, as in `Observations`.
      entropies: nats/token by kind of count, as in `Observations`.
      beat: name of the entropy to beat, as in `Settings`.
    """
    terms = Terms(Settings(0.0, 0.0, beat, arms=len(arms)), statistical=False)
    return _judged(rules.LEARNING, Observations(arms, entropies=entropies), terms)


def overall(criteria: Sequence[Criterion]) -> Verdict:
    """The overall verdict: FAIL if any criterion failed, else INCONCLUSIVE if any is, else PASS."""
    return _worst([criterion.verdict for criterion in criteria])


def _judged(declared: Sequence[Rule], observed: Observations, terms: Terms) -> tuple[Criterion, ...]:
    criteria = (_criterion(rule, observed, terms) for rule in declared if rule.applies(terms))
    return tuple(criterion for criterion in criteria if criterion is not None)


def _criterion(rule: Rule, observed: Observations, terms: Terms) -> Criterion | None:
    judged = []
    for quantity in rule.quantities:
        reading = _reading(quantity, observed, terms)
        if reading is not None:
            judged.append((quantity, reading))
    if not judged:
        return None
    verdict = _worst([_verdict(quantity, reading) for quantity, reading in judged])
    advice = rule.advice.get(verdict)
    ours = "unigram" in observed.entropies
    return Criterion(
        name=resolve(rule.name, terms),
        target=prose.target(judged, terms),
        actual=prose.actual(judged, terms),
        verdict=verdict,
        readings=tuple(reading for _, reading in judged),
        advice=None if advice is None else advice.ours if ours else advice.supplied,
    )


def _reading(quantity: Quantity, observed: Observations, terms: Terms) -> Reading | None:
    sample = quantity.measure(observed)
    if sample is None:
        return None
    threshold = quantity.threshold
    return Reading(
        statistic=quantity.statistic,
        unit=quantity.unit,
        over=sample.over or quantity.over,
        comparison=quantity.comparison,
        threshold=threshold(observed, terms) if callable(threshold) else threshold,
        values=sample.values,
        against=sample.against,
        estimate=sample.estimate,
        ci95=sample.ci95,
        count=sample.count,
    )


def _verdict(quantity: Quantity, reading: Reading) -> Verdict:
    if reading.comparison is None:
        return "PASS"
    if reading.values:
        return _judge_values(quantity, reading, _HOLDS[reading.comparison])
    if reading.estimate is None or reading.threshold is None:
        return "INCONCLUSIVE"
    if reading.comparison in ("within", "at most") and prose.is_identical(reading):
        return "PASS"
    return _judge_interval(reading, reading.comparison, reading.threshold)


def _judge_values(quantity: Quantity, reading: Reading, holds: Callable[[float, float], bool]) -> Verdict:
    """The verdict on values, each of which has to hold; a comparison with NaN is false, so NaN never holds."""
    pairs: list[tuple[float | None, float | None]] = []
    for arm, values in reading.values.items():
        against = reading.against.get(arm, (reading.threshold,) * len(values))
        pairs += zip(values, against, strict=True)
    if any(value is None or threshold is None for value, threshold in pairs):
        return "INCONCLUSIVE"
    passed = all(t is not None and math.isfinite(t) and v is not None and holds(v, t) for v, t in pairs)
    return "PASS" if passed else quantity.otherwise


def _judge_interval(reading: Reading, comparison: Comparison, threshold: float) -> Verdict:
    """The verdict on an interval: PASS if all of it holds, FAIL if none of it does, else INCONCLUSIVE."""
    if reading.ci95 is None:
        return "INCONCLUSIVE"
    low, high = reading.ci95
    passes, fails = {
        "above": (low > threshold, high < threshold),
        "below": (high < threshold, low > threshold),
        "at most": (high < threshold, low > threshold),
        "within": (-threshold < low and high < threshold, high < -threshold or low > threshold),
        "equal": (low == high == threshold, high < threshold or low > threshold),
    }[comparison]
    return "PASS" if passes else "FAIL" if fails else "INCONCLUSIVE"


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"
