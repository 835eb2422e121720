"""Comparisons whose right answer is known, and what came of them."""

from msgspec.structs import force_setattr

from ryot_jax.comparison.schema.base import Verdict
from ryot_jax.comparison.statistics import Interval, check_interval
from ryot_jax.runtime.records import Record


class Control(Record, frozen=True, kw_only=True):
    """One control and what came of it.

    Attributes:
      name: 'placebo', 'known_delay' or 'shuffled_targets'.
      description: what was done, in a sentence.
      target: what must be found.
      actual: what was found.
      verdict: PASS, FAIL, or INCONCLUSIVE where it could not tell.
      injected: the true ratio of times; None for shuffled targets.
      estimate: the measured ratio of times, control over reference; None for shuffled targets.
      ci: its interval at the confidence of all controls.
      ratios: one a block pair.
      seconds: that the control took.
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
        farther from 1); None where its interval could not be taken.
      confidence: of the intervals.
      seconds: that all of them took; their sum where it is not given.
    """

    items: tuple[Control, ...]
    noise_floor: float | None
    confidence: float = 0.99
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Adds the seconds up."""
        if self.seconds is None:
            force_setattr(self, "seconds", float(sum(control.seconds for control in self.items)))

    def failed(self) -> tuple[Control, ...]:
        """The controls that did not pass."""
        return tuple(control for control in self.items if control.verdict != "PASS")
