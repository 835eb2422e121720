"""Controls: comparisons with a known answer, and their outcomes."""

from msgspec.structs import force_setattr

from ryot_jax.comparison.schema.base import Verdict
from ryot_jax.comparison.statistics import Interval, check_interval
from ryot_jax.runtime.records import Record


class Control(Record, frozen=True, kw_only=True):
    """One control and its outcome.

    Attributes:
      name: 'placebo', 'known_delay' or 'shuffled_targets'.
      description: the procedure in a sentence.
      target: the required outcome in words.
      actual: the measured outcome in words.
      verdict: PASS, FAIL, or INCONCLUSIVE if the data do not decide.
      injected: the true ratio of times; None for shuffled targets.
      estimate: the measured ratio of times, control over reference; None for shuffled targets.
      ci: interval of the estimate at `Controls.confidence`.
      ratios: ratio of times of each block pair.
      seconds: seconds that the control took.
    """

    name: str
    description: str
    target: str
    actual: str
    verdict: Verdict
    injected: float | None = None
    estimate: float | None = None
    ci: Interval | None = None
    ratios: tuple[float, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci", self.ci)


class Controls(Record, frozen=True):
    """All controls of a run.

    Attributes:
      items: the controls.
      noise_floor: relative speed-up that the placebo showed or could have shown (the end of its 95 % interval that is
        farther from 1); None if the data allow no interval.
      confidence: confidence level of the intervals.
      seconds: seconds that all controls took; by default the sum over the controls.
    """

    items: tuple[Control, ...]
    noise_floor: float | None
    confidence: float = 0.99
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Sets `seconds` to the sum over the controls if it is not given."""
        if self.seconds is None:
            force_setattr(self, "seconds", float(sum(control.seconds for control in self.items)))

    def failed(self) -> tuple[Control, ...]:
        """The controls that did not pass."""
        return tuple(control for control in self.items if control.verdict != "PASS")
