"""The stages of a run: their order, times and warnings, what a resumed run does not repeat, and how they may fail.

What a stage measures is left to the modules that declare one; which stages there are, to the command.
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
    """How a stage fails that the rest of the run stands without; the error follows both texts after a colon.

    Attributes:
      line: for the console.
      warning: for the report, a sentence's beginning.
    """

    line: str
    warning: str


@dataclasses.dataclass(frozen=True)
class Stage(Generic[Inputs, Value]):
    """A part of a run with a time of its own. Its inputs are values of earlier stages.

    Attributes:
      name: of the phase in the results.
      work: does it.
      applies: whether the config asks for it; where not, its value is None.
      measured_before: the value that an earlier process of a resumed run measured, or None. None: there is no such.
      failure: None: an error ends the run.
      stops_on_request: whether it looks at `run.preemption`; SIGTERM then leaves it at a resumable step.
    """

    name: str
    work: Callable[Concatenate[Run, Inputs], StageResult[Value]]
    applies: Callable[Concatenate[Run, Inputs], bool] | None = None
    measured_before: Callable[Concatenate[Run, Inputs], Value | None] | None = None
    failure: Failure | None = None
    stops_on_request: bool = False


class Stages:
    """Carries stages out one after the other and keeps account of them.

    Attributes:
      seconds: of each stage so far, with what came between it and the one before.
      warnings: of all stages so far.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = time.perf_counter) -> None:
        self._run = run
        self._clock = clock
        self._last = run.started
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    def __call__(self, stage: Stage[Inputs, Value], *inputs: Inputs.args, **named: Inputs.kwargs) -> Value:
        """Carries out a stage and returns its value.

        Raises:
          Preempted: SIGTERM came, and the stage stopped at a resumable step.
          RyotError: of a stage that the run cannot do without.
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
        # Without checkpoints there is nothing to resume from: SIGTERM then ends the process at once.
        listens = stage.stops_on_request and run.config.checkpoint.enabled
        with run.preemption if listens else contextlib.nullcontext():
            return stage.work(run, *inputs, **named)
