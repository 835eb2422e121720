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
      settings: margins, repetitions, and stages beside the training.
      statistical: whether an optimization promises only a training run of the same quality.
    """

    settings: Settings
    statistical: bool


Text = str | Callable[[Terms], str]
Values = Mapping[str, tuple[float | None, ...]]


def resolve(text: Text, terms: Terms) -> str:
    """The text itself, or the result of calling it with the terms."""
    return text if isinstance(text, str) else text(terms)


@dataclasses.dataclass(frozen=True)
class Sample:
    """The measured numbers of a statistic: `values` by arm, or `estimate` with interval and count; see `Reading`."""

    values: Values = dataclasses.field(default_factory=dict)
    against: Values = dataclasses.field(default_factory=dict)
    estimate: float | None = None
    ci95: Interval | None = None
    count: int | None = None
    over: str | None = None


def by_arm(observed: Observations, value: Callable[[ArmOutcome], float]) -> Values:
    """The value of every training pair, by arm."""
    return {name: tuple(value(outcome) for outcome in outcomes) for name, outcomes in observed.arms.items()}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A statistic, its threshold, and the words for both.

    Attributes:
      statistic: name of the statistic.
      unit: unit of its numbers.
      over: unit of analysis, unless the sample names its own.
      measure: takes the sample from the observations; returns None if the run has none.
      comparison: relation to the threshold that passes; None: for information only.
      threshold: a number, or a function of observations and terms; None: `against` of the sample.
      otherwise: the verdict if a value does not hold.
      target: words for the required outcome; may contain {threshold}.
      actual: words for the measured outcome; may contain {values}, {against}, {estimate}, {interval} and {count}.
      form: format of the numbers in `actual`.
      suffix: text after each value.
      missing: text in place of a missing estimate; may contain {over}.
      too_low: text added if the interval lies wholly below the range that the estimate must be in.
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
    """A criterion, stated before a run and judged after it.

    Attributes:
      name: name of the criterion.
      estimand: name of the deciding quantity.
      unit: unit of analysis of its interval.
      statistic: the estimator in words.
      criterion: the criterion in words, without a measurement.
      applies: whether it decides a run with the given terms.
      quantities: the quantities it is judged by; the worst verdict counts. If none was measured it does not decide.
      advice: advice for the next step, by verdict.
    """

    name: Text
    estimand: str
    unit: Text
    statistic: Text
    criterion: Text
    quantities: tuple[Quantity, ...]
    applies: Callable[[Terms], bool] = lambda terms: True
    advice: Mapping[Verdict, Advice] = dataclasses.field(default_factory=dict)
