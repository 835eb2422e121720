"""Types that several topics of `results.json` share."""

from typing import Literal

from ryot_jax.comparison.statistics import Interval, check_interval
from ryot_jax.runtime.records import Record

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Measured(Record, frozen=True, kw_only=True):
    """An estimate with its 95 % interval; None if the data allow none."""

    estimate: float | None
    ci95: Interval | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


NOT_MEASURED = Measured(estimate=None, ci95=None)
