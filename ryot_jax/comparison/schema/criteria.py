"""A criterion as data, and an estimand as it was stated before the run."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from ryot_jax.comparison.schema.base import Verdict
from ryot_jax.comparison.statistics import Interval, check_interval
from ryot_jax.runtime.records import Record

Comparison = Literal["above", "below", "within", "at most", "equal"]


class Reading(Record, frozen=True, kw_only=True):
    """A statistic that a criterion is judged by, with what it is held to.

    Attributes:
      statistic: what was measured.
      unit: of the numbers.
      over: what it was taken over, such as 'arm' or 'block pair'.
      comparison: how it is held to `threshold` (within: plus and minus); None: it is only shown.
      threshold: None where each value is held to one of `against`.
      values: by arm, one for each training pair; all of them have to pass.
      against: by arm, what each of `values` is held to.
      estimate: of a statistic on the pair of arms.
      ci95: its interval, which has to pass as a whole.
      count: how many of `over` the interval is taken over.
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
      name: identifies it in files and tests.
      target: what must be found, in words.
      actual: what was found, in words.
      verdict: PASS, FAIL, or INCONCLUSIVE where it could not tell.
      readings: what it was judged by, the words' numbers; none in files of version 2, which had words alone.
      advice: what to do about it; None where nothing is to be done.
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
      name: of the quantity.
      unit: what its interval is taken over.
      statistic: how it is estimated.
      criterion: what decides, in words; 'none: reported' where nothing does.
      decides: name of the criterion that it decides; empty where it is only reported, and in files of version 2.
    """

    name: str
    unit: str
    statistic: str
    criterion: str
    decides: str = ""


class Statement(Record, frozen=True, kw_only=True):
    """The estimands, their sha256, and when they were written down (UTC, ISO 8601; None: not recorded)."""

    sha256: str
    stated_at: str | None
    items: tuple[Estimand, ...]
