"""The metrics of a run as JSON lines, and optionally as TensorBoard events.

One row for each `(arm, step, kind)`; callers decide what to measure, and when.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.runtime.files import write_text
from ryot_jax.runtime.json_values import plain


class MetricsWriter:
    """Appends rows to `metrics.jsonl`; each is flushed to the operating system before `write` returns.

    Args:
      path: the JSON-lines file; created if it does not exist.
      resume_steps: the step from which each arm of a resumed run resumes. Rows of later steps, and of other arms, are
        removed first, as the run writes them again. None: a new run.
      tensorboard: a folder for TensorBoard events, with a sub-folder for each arm; None: no events.

    Raises:
      ConfigError: TensorBoard events are requested but tensorboardX is not installed.
    """

    def __init__(
        self, path: Path, *, resume_steps: Mapping[str, int] | None = None, tensorboard: Path | None = None
    ) -> None:
        if resume_steps is not None:
            drop_rows_after(path, resume_steps)
        self._resume_steps = resume_steps or {}
        self._tensorboard = tensorboard
        self._event_class = None if tensorboard is None else _tensorboard_writer()
        self._events: dict[str, Any] = {}
        self._file = path.open("a", encoding="utf-8", newline="")

    def write(self, arm: str, step: int, **values: Any) -> None:
        """Appends one row.

        Args:
          arm: 'baseline' or 'optimized'.
          step: number of steps trained so far.
          **values: numbers (also NumPy and JAX scalars), strings or None. NaN and infinities, which JSON lacks, become
            null.
        """
        row = {"arm": arm, "step": int(step)} | {name: plain(value) for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._event_class is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                    self._events_of(arm).add_scalar(name, value, global_step=row["step"])

    def close(self) -> None:
        """Closes the files; nothing can be written afterwards."""
        self._file.close()
        for events in self._events.values():
            events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _events_of(self, arm: str) -> Any:
        if arm not in self._events:
            assert self._tensorboard is not None and self._event_class is not None
            resumed = self._resume_steps.get(arm)
            purge = None if resumed is None else resumed + 1
            self._events[arm] = self._event_class(str(self._tensorboard / arm), purge_step=purge)
        return self._events[arm]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a metrics file; drops a last line that a crash has cut short.

    Raises:
      CheckpointError: a line before the last is damaged.
    """
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise CheckpointError(f"{path}:{number} is not JSON; repair that line or remove it") from error
    return rows


def drop_rows_after(path: Path, steps: Mapping[str, int]) -> int:
    """Removes the rows whose step is beyond `steps[arm]`, and those of other arms, atomically.

    Returns:
      The number of removed rows.
    """
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= steps.get(row["arm"], -1)]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return len(rows) - len(kept)


def _tensorboard_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "metrics.tensorboard = True needs tensorboardX: pip install 'ryot_jax[tensorboard]'"
        ) from error
    return SummaryWriter
