"""Functions of the step that are constant over ranges of steps, from which step schedules are composed.

Each combinator returns a `Series`; values may be of any comparable type.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Generic, TypeVar

from ryot_jax.runtime.errors import ConfigError

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Series(Generic[Value]):
    """A value for each step, constant over ranges of steps.

    Attributes:
      firsts: the first step of each range, ascending from 0.
      values: the value of each range.
      end: the number of steps; None: the series never ends.
    """

    firsts: tuple[int, ...]
    values: tuple[Value, ...]
    end: int | None

    def __call__(self, step: int) -> Value:
        """The value of step 0, 1, ...

        Raises:
          ConfigError: the step is beyond the series.
        """
        if step < 0 or (self.end is not None and step >= self.end):
            raise ConfigError(f"step {step}: the schedule has the steps 0 to {self.end}, without the last")
        return self.values[bisect.bisect_right(self.firsts, step) - 1]


def constant(value: Value, steps: int | None = None) -> Series[Value]:
    """A constant value for `steps` steps; None: for ever."""
    if steps is not None and steps < 1:
        raise ConfigError(f"steps = {steps}: a schedule has at least one step")
    return Series((0,), (value,), steps)


def piecewise(ranges: Sequence[tuple[int, int | None, Value]]) -> Series[Value]:
    """A series of ranges [first, end) given as `(first, end, value)`; the last end may be None: for ever.

    Raises:
      ConfigError: ranges overlap, leave a gap or are empty; the message names the step.
    """
    if not ranges:
        raise ConfigError("a piecewise schedule has at least one range of steps")
    at: int | None = 0
    for first, end, _ in ranges:
        if at is None:
            raise ConfigError(f"step {first}: a range begins here, but the one before never ends")
        if first > at:
            raise ConfigError(f"step {at}: belongs to no range; the next one begins at step {first}")
        if first < at:
            raise ConfigError(f"step {first}: belongs to two ranges; the one before ends at step {at}")
        if end is not None and end <= first:
            raise ConfigError(f"step {first}: the range that begins here ends at step {end}, so it has no steps")
        at = end
    return Series(tuple(first for first, _, _ in ranges), tuple(value for *_, value in ranges), at)


def linear_ramp(
    first_value: int, last_value: int, *, steps: int, multiple_of: int = 1, then: int | None = None
) -> Series[int]:
    """Whole numbers from `first_value` up or down to `last_value`, in equal stretches of `steps` steps.

    Args:
      first_value: value of step 0.
      last_value: value after the ramp.
      steps: number of steps of the ramp, at least the number of stages.
      multiple_of: increment of a stage; divides both values.
      then: steps with `last_value`; None: for ever.
    """
    if multiple_of < 1 or first_value % multiple_of or last_value % multiple_of:
        raise ConfigError(f"a ramp from {first_value} to {last_value}: both have to be multiples of {multiple_of}")
    stride = multiple_of if last_value >= first_value else -multiple_of
    values = tuple(range(first_value, last_value, stride))
    if len(values) > steps:
        raise ConfigError(f"a ramp over {steps} steps: it has {len(values)} stages, each of at least one step")
    firsts = tuple(i * steps // len(values) for i in range(len(values))) if values else ()
    end = None if then is None else steps + then
    if then == 0:
        return Series(firsts, values, steps)
    return Series((*firsts, steps if values else 0), (*values, last_value), end)


def per_phase(phases: Sequence[tuple[int, Value]]) -> Series[Value]:
    """A series of phases in sequence, each given as `(steps, value)`."""
    ranges, first = [], 0
    for steps, value in phases:
        ranges.append((first, first + steps, value))
        first += steps
    return piecewise(ranges)
