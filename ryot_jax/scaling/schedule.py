"""Step schedules of training: which of a few compiled programs takes a step, and with which traced values.

A schedule is a pure function of the step, checked before anything compiles. `ryot_jax.training` compiles and runs it.
"""

import bisect
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling.series import Series, constant

MOST_PROGRAMS = 6


@dataclasses.dataclass(frozen=True, order=True)
class ProgramKey:
    """The shapes that a training program is compiled for.

    Attributes:
      batch_size: sequences per step.
      seq_len: positions per sequence.
      depth: number of first layers that the model uses in the step; 0: all. The others get no gradient.
    """

    batch_size: int
    seq_len: int
    depth: int = 0

    @property
    def tokens(self) -> int:
        """Target tokens of a step."""
        return self.batch_size * self.seq_len


class TracedValues(NamedTuple):
    """Values that a program takes as arguments, so that changing them costs no compilation.

    Attributes:
      rate: multiplier of the learning rate.
    """

    rate: float = 1.0


class Segment(NamedTuple):
    """Steps [first, end) of one kind, before which `tokens` target tokens were trained on."""

    first: int
    end: int
    static: ProgramKey
    dynamic: TracedValues
    tokens: int


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """A function step -> (ProgramKey, TracedValues) over a known number of steps; see `compose`."""

    segments: tuple[Segment, ...]

    def __call__(self, step: int) -> tuple[ProgramKey, TracedValues]:
        """The program and the traced values of step 0, 1, ...

        Raises:
          ConfigError: the step is beyond the schedule.
        """
        segment = self.segment(step)
        return segment.static, segment.dynamic

    def segment(self, step: int) -> Segment:
        """The segment that contains the step."""
        if not 0 <= step < self.total_steps:
            raise ConfigError(f"step {step}: the schedule has the steps 0 to {self.total_steps - 1}")
        return self.segments[bisect.bisect_right([segment.first for segment in self.segments], step) - 1]

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole schedule."""
        return self.segments[-1].end

    @property
    def total_tokens(self) -> int:
        """The number of target tokens of the whole schedule."""
        return self.tokens_before(self.total_steps)

    def tokens_before(self, step: int) -> int:
        """Target tokens of the steps before this one, which is the position of its data.

        A closed form, so that training can be resumed from any step.
        """
        segment = self.segments[-1] if step == self.total_steps else self.segment(step)
        return segment.tokens + (step - segment.first) * segment.static.tokens

    def programs(self) -> tuple[ProgramKey, ...]:
        """The programs to compile, in the order of first use."""
        return tuple(dict.fromkeys(segment.static for segment in self.segments))

    def to_json(self) -> list[dict[str, Any]]:
        """The segments as JSON values, for manifests and results."""
        return [
            {
                "first_step": segment.first,
                "end_step": segment.end,
                **dataclasses.asdict(segment.static),
                **segment.dynamic._asdict(),
            }
            for segment in self.segments
        ]


def compose(
    *,
    batch_size: Series[int] | int,
    seq_len: Series[int] | int,
    depth: Series[int] | int = 0,
    rate: Series[float] | float = 1.0,
) -> StepSchedule:
    """Composes a step schedule from one series per quantity; a number stands for a constant series.

    Raises:
      ConfigError: the series end at different steps, or none of them ends.
    """
    given = {"batch_size": batch_size, "seq_len": seq_len, "depth": depth, "rate": rate}
    parts: dict[str, Series[Any]] = {
        name: part if isinstance(part, Series) else constant(part) for name, part in given.items()
    }
    ends = {name: part.end for name, part in parts.items() if part.end is not None}
    if not ends:
        raise ConfigError("the schedule never ends: give one of its parts a number of steps")
    total = max(ends.values())
    for name, end in ends.items():
        if end != total:
            raise ConfigError(f"step {end}: {name} ends here, but the schedule continues to step {total}")
    firsts = sorted({first for part in parts.values() for first in part.firsts if first < total})
    segments, tokens = [], 0
    for first, end in zip(firsts, [*firsts[1:], total], strict=True):
        static = ProgramKey(*(parts[name](first) for name in ("batch_size", "seq_len", "depth")))
        segments.append(Segment(first, end, static, TracedValues(parts["rate"](first)), tokens))
        tokens += (end - first) * static.tokens
    return StepSchedule(tuple(_merged(segments)))


def check(
    schedule: StepSchedule,
    *,
    max_len: int,
    n_layers: int,
    n_devices: int = 1,
    accumulation: int = 1,
    steps_per_call: int = 1,
    most_programs: int = MOST_PROGRAMS,
) -> None:
    """Refuses a schedule that cannot be trained, before anything compiles.

    Args:
      schedule: the step schedule.
      max_len: number of positions of the model.
      n_layers: number of layers of the model.
      n_devices: number of devices that share a batch.
      accumulation: number of microbatches of a batch.
      steps_per_call: steps per call of a program.
      most_programs: largest number of programs to compile.

    Raises:
      ConfigError: the schedule cannot be trained; the message names the step and the remedy.
    """
    for segment in schedule.segments:
        static, at = segment.static, f"step {segment.first}"
        if not 1 <= static.seq_len <= max_len:
            raise ConfigError(f"{at}: seq_len = {static.seq_len} must lie in 1 to model.max_len = {max_len}")
        if not 0 <= static.depth <= n_layers:
            raise ConfigError(f"{at}: depth = {static.depth} must lie in 0 to model.n_layers = {n_layers}; 0: all")
        if static.batch_size < 1 or static.batch_size % (n_devices * accumulation):
            raise ConfigError(
                f"{at}: batch_size = {static.batch_size} cannot be shared out among {n_devices} devices in "
                f"{accumulation} parts; make it a multiple of {n_devices * accumulation}"
            )
        if not (segment.dynamic.rate > 0.0 and segment.dynamic.rate < float("inf")):
            raise ConfigError(f"{at}: rate = {segment.dynamic.rate} must be above zero and finite")
        if (segment.end - segment.first) % steps_per_call:
            raise ConfigError(
                f"{at}: {segment.end - segment.first} steps of one kind, and a call takes {steps_per_call}; make the "
                f"number a multiple of it"
            )
    if len(schedule.programs()) > most_programs:
        step = next(
            segment.first
            for i, segment in enumerate(schedule.segments)
            if len({earlier.static for earlier in schedule.segments[: i + 1]}) > most_programs
        )
        raise ConfigError(
            f"step {step}: would be the first of program number {most_programs + 1}; at most {most_programs} may be "
            "compiled, so let several steps share batch size, length and depth"
        )


def _merged(segments: list[Segment]) -> Iterator[Segment]:
    """Merges neighbouring segments of one kind."""
    last: Segment | None = None
    for segment in segments:
        if last is not None and (last.static, last.dynamic) == (segment.static, segment.dynamic):
            last = last._replace(end=segment.end)
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
