"""The progress of each arm: a moving display on a capable terminal, occasional plain ASCII lines elsewhere.

It displays reported numbers and times nothing itself; its clock only spaces the lines. The time left covers training
steps, not evaluation or compilation.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import rich.progress

from ryot_jax.runtime.console import Console

_REFRESH_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class _Position:
    step: int
    loss: float
    tokens_per_second: float | None


class Progress:
    """The display of the progress of all arms, a context manager that restores the terminal at its end.

    Args:
      console: the output. Its `line` may be called meanwhile.
      arms: names of the arms, in the order of display.
      epochs: number of epochs of each arm.
      steps_per_epoch: training steps per epoch.
      tokens_per_step: target tokens per step.
      every_seconds: seconds between two plain lines of an arm; its last step always gets a line.
      clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        arms: Sequence[str],
        epochs: int,
        steps_per_epoch: int,
        tokens_per_step: int,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._arms = tuple(arms)
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._tokens_per_step = tokens_per_step
        self._every_seconds = every_seconds
        self._clock = clock
        self._positions: dict[str, _Position] = {}
        self._unshown: set[str] = set()
        self._last_shown = clock()
        self._bars: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __enter__(self) -> "Progress":
        if self._console.display is not None:
            # No refresh thread, which would slow the timed steps.
            self._bars = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=24),
                rich.progress.TextColumn("{task.fields[position]}"),
                console=self._console.display,
                auto_refresh=False,
            )
            width = max(map(len, self._arms))
            for arm in self._arms:
                self._tasks[arm] = self._bars.add_task(arm.ljust(width), total=self._total, position="waiting")
            self._console.attempt(self._bars.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._console.attempt(self._bars.stop)

    def update(self, arm: str, *, step: int, loss: float, tokens_per_second: float | None) -> None:
        """Reports the position of an arm.

        Args:
          arm: one of `arms`.
          step: number of steps done, 1 to epochs * steps_per_epoch.
          loss: training loss, nats/token.
          tokens_per_second: speed over the last block of steps; None: no block is finished yet.
        """
        self._positions[arm] = _Position(step, loss, tokens_per_second)
        self._unshown.add(arm)
        finished = step >= self._total
        if self._bars is not None:
            self._bars.update(self._tasks[arm], completed=step, position=self._position_text(arm))
            if finished or self._clock() - self._last_shown >= _REFRESH_SECONDS:
                self._last_shown = self._clock()
                self._console.attempt(self._bars.refresh)
        elif finished or self._clock() - self._last_shown >= self._every_seconds:
            self._last_shown = self._clock()
            width = max(map(len, self._arms))
            for name in self._arms:
                if name in self._unshown:
                    self._console.line(f"{name.ljust(width)}  {self._position_text(name)}")
            self._unshown.clear()

    @property
    def _total(self) -> int:
        return self._epochs * self._steps_per_epoch

    def _position_text(self, arm: str) -> str:
        position = self._positions[arm]
        epoch = min(max(position.step - 1, 0) // self._steps_per_epoch + 1, self._epochs)
        speed = "?" if position.tokens_per_second is None else f"{position.tokens_per_second:,.0f}"
        return (
            f"epoch {epoch}/{self._epochs}  step {position.step:{len(str(self._total))}d}/{self._total}  "
            f"loss {position.loss:.4f}  {speed} tok/s  {self._time_left()} left"
        )

    def _time_left(self) -> str:
        """The time left of the whole run, summed over the arms, as they take turns."""
        rates = [place.tokens_per_second for place in self._positions.values() if place.tokens_per_second]
        if not rates:
            return "?"
        seconds = 0.0
        for arm in self._arms:
            place = self._positions.get(arm, _Position(0, 0.0, None))
            rate = place.tokens_per_second or sum(rates) / len(rates)
            seconds += max(self._total - place.step, 0) * self._tokens_per_step / rate
        return format_duration(seconds)


def format_duration(seconds: float) -> str:
    """Seconds as `m:ss`, or as `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
