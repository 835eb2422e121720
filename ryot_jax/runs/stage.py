"""The stages of a run: execution, times, warnings, reuse of earlier measurements, and failures.

Modules of this package declare one stage each; the command puts them in order.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from ryot_jax.runs.run import Run
from ryot_jax.runtime.errors import Preempted, RyotError

Inputs = ParamSpec("Inputs")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class StageResult(Generic[Value]):
    """The value of a stage, and sentences for the reader of the report."""

    value: Value
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Failure:
    """The failure of a stage that the run can do without; the error follows both texts after a colon.

    Attributes:
      line: text for the console.
      warning: beginning of a sentence for the report.
    """

    line: str
    warning: str


@dataclasses.dataclass(frozen=True)
class Stage(Generic[Inputs, Value]):
    """A part of a run that is timed separately. Its inputs are values of earlier stages.

    Attributes:
      name: name of the phase in the results.
      work: does the work and returns the value.
      applies: whether the config enables the stage; if not, its value is None. None: always enabled.
      measured_before: returns the value that an earlier process of a resumed run measured, or None. None: never reused.
      failure: texts for a failure that the run can do without; None: an error ends the run.
      stops_on_request: whether the stage reads `run.preemption`; SIGTERM then stops it at a resumable step.
    """

    name: str
    work: Callable[Concatenate[Run, Inputs], StageResult[Value]]
    applies: Callable[Concatenate[Run, Inputs], bool] | None = None
    measured_before: Callable[Concatenate[Run, Inputs], Value | None] | None = None
    failure: Failure | None = None
    stops_on_request: bool = False


class Stages:
    """Executes the stages of a run in order and records their times and warnings.

    Attributes:
      seconds: seconds of each stage so far, including the time since the stage before.
      warnings: warnings of all stages so far.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = time.perf_counter) -> None:
        self._run = run
        self._clock = clock
        self._last = run.started
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    def __call__(self, stage: Stage[Inputs, Value], *inputs: Inputs.args, **named: Inputs.kwargs) -> Value:
        """Executes a stage and returns its value.

        Raises:
          Preempted: the stage stopped at a resumable step after SIGTERM.
          RyotError: a stage that the run cannot do without failed.
        """
        try:
            result = self._result(stage, *inputs, **named)
        except Preempted:
            raise
        except RyotError as error:
            if stage.failure is None:
                raise
            self._run.console.line(f"{stage.failure.line}: {error}")
            result = StageResult(cast(Any, None), (f"{stage.failure.warning}: {error}.",))
        self.warnings.extend(result.warnings)
        now = self._clock()
        self.seconds[stage.name], self._last = now - self._last, now
        return result.value

    def total(self) -> float:
        """Seconds since the run was opened."""
        return self._clock() - self._run.started

    def _result(self, stage: Stage[Inputs, Value], *inputs: Inputs.args, **named: Inputs.kwargs) -> StageResult[Value]:
        run = self._run
        if stage.applies is not None and not stage.applies(run, *inputs, **named):
            return StageResult(cast(Any, None))
        if run.resumed and stage.measured_before is not None:
            before = stage.measured_before(run, *inputs, **named)
            if before is not None:
                return StageResult(before)
        # Without checkpoints the run could not be resumed: SIGTERM then ends the process at once.
        listens = stage.stops_on_request and run.config.checkpoint.enabled
        with run.preemption if listens else contextlib.nullcontext():
            return stage.work(run, *inputs, **named)
