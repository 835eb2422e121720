"""The base of all records of `results.json`, and the types that several topics share."""

from typing import Literal

import msgspec

from ryot_jax.comparison.statistics import Interval, check_interval

Number = int | float
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Record(msgspec.Struct, frozen=True):
    """A record: its fields, declared once, are what is written, what is accepted when read, and the JSON schema.

    Fields beyond those declared are ignored when read. A field of type `float | None` is None where the value was not
    measured or was not finite.
    """


class Measured(Record, frozen=True, kw_only=True):
    """An estimate with its 95 % interval; None where the data allow none."""

    estimate: float | None
    ci95: Interval | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


NOT_MEASURED = Measured(estimate=None, ci95=None)
