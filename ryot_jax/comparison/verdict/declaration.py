"""The parts of a criterion's declaration; the criteria themselves are in `rules`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ryot_jax.comparison.schema import Settings, Verdict
from ryot_jax.comparison.schema.criteria import Comparison
from ryot_jax.comparison.statistics import Interval
from ryot_jax.comparison.verdict.observations import ArmOutcome, Observations


@dataclasses.dataclass(frozen=True)
class Terms:
    """The terms of a run, known before its first step.

    Attributes:
      settings: margins, repetitions, what is run beside the training.
      statistical: whether one of the optimizations promises no more than a training run of the same quality.
    """

    settings: Settings
    statistical: bool


Text = str | Callable[[Terms], str]
Values = Mapping[str, tuple[float | None, ...]]


def resolve(text: Text, terms: Terms) -> str:
    """The text, or what the function makes of the terms."""
    return text if isinstance(text, str) else text(terms)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Measured numbers of a statistic: `values` by arm, or `estimate` with interval and count; see `Reading`."""

    values: Values = dataclasses.field(default_factory=dict)
    against: Values = dataclasses.field(default_factory=dict)
    estimate: float | None = None
    ci95: Interval | None = None
    count: int | None = None
    over: str | None = None


def by_arm(observed: Observations, value: Callable[[ArmOutcome], float]) -> Values:
    """A value of each arm in each training pair."""
    return {name: tuple(value(outcome) for outcome in outcomes) for name, outcomes in observed.arms.items()}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A statistic that is measured, what it is held to, and how both are put into words.

    Attributes:
      statistic: what is measured.
      unit: of its numbers.
      over: what it is taken over, where the sample does not say.
      measure: the sample; None: there is nothing of the kind in this run.
      comparison: None: it is only shown.
      threshold: a number, or a function of what was observed and of the terms; None: `against` of the sample.
      otherwise: the verdict where values do not hold.
      target: what must be found; may name {threshold}.
      actual: what was found; may name {values}, {against}, {estimate}, {interval} and {count}.
      form: format of the numbers in `actual`.
      suffix: behind each of the values.
      missing: said where there is no estimate; may name {over}.
      too_low: added where an interval within which the estimate had to lie is left downwards.
    """

    statistic: str
    unit: str
    measure: Callable[[Observations], Sample | None]
    over: str = "arm"
    comparison: Comparison | None = None
    threshold: float | Callable[[Observations, Terms], float] | None = None
    otherwise: Verdict = "FAIL"
    target: Text = ""
    actual: str = "{values}"
    form: str = ".3f"
    suffix: str = ""
    missing: str = "not measured"
    too_low: Text = ""


class Advice(NamedTuple):
    """Advice about a criterion that did not pass, for a run of this package and for user-supplied step functions."""

    ours: str
    supplied: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """A criterion as it is stated before a run and judged after it.

    Attributes:
      name: of the criterion.
      estimand: name of the quantity that decides.
      unit: what its interval is taken over.
      statistic: how it is estimated.
      criterion: what decides, in words that need no measurement.
      applies: whether it decides a run of such terms.
      quantities: what it is judged by; the worst verdict counts. Where none of them was measured it does not decide.
      advice: what to do, by verdict.
    """

    name: Text
    estimand: str
    unit: Text
    statistic: Text
    criterion: Text
    quantities: tuple[Quantity, ...]
    applies: Callable[[Terms], bool] = lambda terms: True
    advice: Mapping[Verdict, Advice] = dataclasses.field(default_factory=dict)
