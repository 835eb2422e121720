"""Criteria as data, and estimands as stated before the run."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from ryot_jax.comparison.schema.base import Verdict
from ryot_jax.comparison.statistics import Interval, check_interval
from ryot_jax.runtime.records import Record

Comparison = Literal["above", "below", "within", "at most", "equal"]


class Reading(Record, frozen=True, kw_only=True):
    """A statistic that a criterion is judged by, with its threshold.

    Attributes:
      statistic: name of the measured statistic.
      unit: unit of the numbers.
      over: unit of analysis, such as 'arm' or 'block pair'.
      comparison: relation to `threshold` that passes (within: plus and minus); None: for information only.
      threshold: the threshold; None if each value has its own in `against`.
      values: by arm, one value per training pair; all of them have to pass.
      against: by arm, the threshold of each of `values`.
      estimate: estimate of a statistic on the pair of arms.
      ci95: 95 % interval of the estimate, which has to pass as a whole.
      count: number of `over` that the interval is taken over.
    """

    statistic: str
    unit: str
    over: str
    comparison: Comparison | None
    threshold: float | None = None
    values: Mapping[str, tuple[float | None, ...]] = {}
    against: Mapping[str, tuple[float | None, ...]] = {}
    estimate: float | None = None
    ci95: Interval | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


class Criterion(msgspec.Struct, frozen=True):
    """One criterion of a run.

    Attributes:
      name: identifier in files and tests.
      target: the required outcome in words.
      actual: the measured outcome in words.
      verdict: PASS, FAIL, or INCONCLUSIVE if the data do not decide.
      readings: the numbers that it was judged by; empty in files of version 2, which hold words alone.
      advice: advice for the next step; None if there is none.
    """

    name: str
    target: str
    actual: str
    verdict: Verdict
    readings: tuple[Reading, ...] = ()
    advice: str | None = None


class Estimand(Record, frozen=True, kw_only=True):
    """An estimand as the run stated it before its first step.

    Attributes:
      name: name of the quantity.
      unit: unit of analysis of its interval.
      statistic: the estimator in words.
      criterion: the deciding criterion in words; 'none: reported' if there is none.
      decides: name of that criterion; empty if there is none, and in files of version 2.
    """

    name: str
    unit: str
    statistic: str
    criterion: str
    decides: str = ""


class Statement(Record, frozen=True, kw_only=True):
    """The estimands, their sha256, and the time of the statement (UTC, ISO 8601; None: not recorded)."""

    sha256: str
    stated_at: str | None
    items: tuple[Estimand, ...]
