"""Training by a step schedule: one compiled program for each kind of step, all known before the first step.

The executed steps are recorded from the shapes of the programs' inputs and checked against the schedule. The caller
compiles the programs.
"""

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
import optax

from ryot_jax.data.batches import training_rows
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError, RyotError
from ryot_jax.scaling.schedule import ProgramKey, StepSchedule
from ryot_jax.training.loop import BatchIterator, BlockResult, Trainer
from ryot_jax.training.optimizer import learning_rate_schedule
from ryot_jax.training.parallel import CompiledStep
from ryot_jax.training.state import State


def scheduled_rate(training: Mapping[str, Any], schedule: StepSchedule) -> optax.Schedule:
    """The learning rate of each step of a step schedule: the config's, by tokens, times the schedule's multiplier.

    The config's learning-rate schedule is laid over the tokens of the whole training, as if each step took as many as
    the average step does: so warm-up and decay take the same share of the tokens whatever the sizes of the steps are.
    If the sizes do not change, the rate is `learning_rate_schedule`.
    """
    total = schedule.total_steps
    rate = learning_rate_schedule(training, total)
    if len(schedule.segments) == 1 and schedule.segments[0].dynamic.rate == 1.0:
        return rate
    per_step = schedule.total_tokens / total
    steps = np.array([schedule.tokens_before(step) / per_step for step in range(total)], np.float32)
    multipliers = np.array([schedule(step)[1].rate for step in range(total)], np.float32)
    # One more entry: optax asks for the rate of the step after the last.
    steps_S, multipliers_S = (jnp.asarray(np.append(numbers, numbers[-1:])) for numbers in (steps, multipliers))
    return lambda step: rate(steps_S[step]) * multipliers_S[step]


def scheduled_dataset(train: np.ndarray, schedule: StepSchedule, *, seed: int) -> grain.MapDataset:
    """The batches of a schedule's steps, with random access by step.

    Each length of sequences has passes over the data of its own, as `data.batches.training_dataset` makes them, and a
    step takes the windows behind as many tokens as all steps before it took: where a schedule does not change these
    are that dataset's batches.

    Args:
      train: uint16[n] token ids.
      schedule: what each step takes.
      seed: any non-negative integer.

    Raises:
      DataError: fewer ids than a window of the longest sequences has.
    """
    rows_of = {static.seq_len: training_rows(train, static.seq_len, seed) for static in schedule.programs()}

    def batch_of(step: int) -> dict[str, np.ndarray]:
        static, _ = schedule(step)
        first = -(-schedule.tokens_before(step) // static.seq_len)
        return rows_of[static.seq_len](first, static.batch_size)

    return grain.MapDataset.range(schedule.total_steps).map(batch_of)


class Programs:
    """The compiled programs of a schedule, each compiled once: all before training, or all but the first beside it.

    Args:
      schedule: checked, see `ryot_jax.scaling.check`.
      compile_static: makes the program for steps of one kind; called once for each kind that the schedule has.
      in_background: whether all but the first are compiled by a thread during training.

    Attributes:
      compiled: the programs, as they finish.

    Raises:
      RyotError: two kinds with the same batches came out as the same program: `compile_static` does not look at what
        sets them apart.
    """

    def __init__(
        self,
        schedule: StepSchedule,
        compile_static: Callable[[ProgramKey], CompiledStep],
        *,
        in_background: bool = False,
    ):
        self.schedule = schedule
        self.compiled: dict[ProgramKey, CompiledStep] = {}
        self._compile = compile_static
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")
        self._futures = {static: self._pool.submit(self._compiled, static) for static in schedule.programs()}
        self._pool.shutdown(wait=False)
        first, *_ = schedule.programs()
        waits = [first] if in_background else list(self._futures)
        for static in waits:
            self._futures[static].result()

    def __call__(self, step: int, left: int) -> CompiledStep:
        """The program that takes this step; waits for its compilation.

        Raises:
          ConfigError: the program takes more steps per call than are left.
        """
        segment = self.schedule.segment(step)
        program = self._futures[segment.static].result()
        if program.steps > min(left, segment.end - step):
            raise ConfigError(
                f"step {step}: a call takes {program.steps} steps, and {min(left, segment.end - step)} are left to take"
            )
        return program

    def _compiled(self, static: ProgramKey) -> CompiledStep:
        program = self._compile(static)
        for other, known in self.compiled.items():
            same_batches = (other.batch_size, other.seq_len) == (static.batch_size, static.seq_len)
            if same_batches and _fingerprint(known) == _fingerprint(program):
                raise RyotError(
                    f"{other} and {static} were compiled to the same program: their difference does nothing"
                )
        self.compiled[static] = program
        return program


def _fingerprint(program: CompiledStep) -> str:
    return hlo.parse(program.hlo_text()).fingerprint


class ScheduledTrainer:
    """Takes the steps of a schedule and records those that ran.

    Args:
      name: name for messages.
      programs: the programs of the schedule.
      state: the initial state, at any step of the schedule.
      batches: batches of the schedule's steps, from that step on.

    Attributes:
      trainer: state, data and counters.
      executed: (first step, end, kind of the steps) of what ran, by the shapes of the arrays that went in and the
        depth that the program was compiled for.
    """

    def __init__(self, name: str, programs: Programs, state: State, batches: BatchIterator):
        self.schedule = programs.schedule
        self.executed: list[tuple[int, int, ProgramKey]] = []
        start = int(state.step)
        first = programs(start, self.schedule.total_steps - start)
        self._programs, self._depth = programs, 0
        self.trainer = Trainer(name, first, state, _Recorded(batches, self), program_at=self._program_at)

    def run(self, n_steps: int | None = None) -> BlockResult:
        """Takes `n_steps` steps (None: all remaining ones) and checks that they were those of the schedule.

        Raises:
          NonFiniteLossError: a loss or gradient norm is not finite.
          RyotError: a step was not of the scheduled kind.
        """
        before = self.trainer.steps_taken
        result = self.trainer.run_block(self.schedule.total_steps - before if n_steps is None else n_steps)
        self._check_executed(before)
        return result

    def saw(self, batch_size: int, seq_len: int) -> None:
        """Records the shape of the batch of the next step."""
        static = ProgramKey(batch_size, seq_len, self._depth)
        first, end, last = self.executed[-1] if self.executed else (0, self.trainer.steps_taken, None)
        if static == last:
            self.executed[-1] = (first, end + 1, static)
        else:
            self.executed.append((end, end + 1, static))

    def _program_at(self, step: int, left: int) -> CompiledStep:
        program = self._programs(step, left)
        self._depth = next(static.depth for static, known in self._programs.compiled.items() if known is program)
        return program

    def _check_executed(self, since: int) -> None:
        """Checks that every step from `since` on ran as scheduled; the error names the newest one that did not."""
        for first, end, static in reversed(self.executed):
            for step in reversed(range(max(first, since), end)):
                if self.schedule(step)[0] != static:
                    raise RyotError(f"step {step} ran as {static}, but the schedule says {self.schedule(step)[0]}")


class _Recorded:
    """Batches whose shapes are recorded as they are taken."""

    def __init__(self, batches: BatchIterator, trainer: ScheduledTrainer):
        self._batches, self._trainer = batches, trainer

    def __next__(self) -> Mapping[str, np.ndarray]:
        batch = next(self._batches)
        self._trainer.saw(*batch["inputs"].shape)
        return batch

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return self

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)
