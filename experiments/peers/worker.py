"""A training program in a separate process that runs blocks of steps on demand: both ends of the pipe.

The worker writes one JSON line when it is ready. Then it reads `block N` from standard input, takes N training steps
and writes one JSON line, {"seconds": 1.23, ...}; end of input ends it. Between two blocks it sleeps on its input, so
any number of workers may wait while one works. Standard library only: peers run in environments without JAX.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

# Variables of the caller's shell that must not affect a measurement.
_SCRUBBED = ("LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS")


def cores() -> int:
    """Number of threads that a program should use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- In the worker ---------------------------------------------------------------------------------------------


def answers() -> Callable[[Mapping[str, Any]], None]:
    """Reserve standard output for the protocol, and redirect all other output to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: Mapping[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    return answer


def serve(
    answer: Callable[[Mapping[str, Any]], None],
    run_steps: Callable[[int], float],
    *,
    parameters: int,
    initial_loss: float,
    versions: Mapping[str, str],
    notes: str,
) -> None:
    """Report that the program is ready, and run blocks until the input ends.

    Args:
      answer: the function returned by `answers`.
      run_steps: takes a number of steps and returns the training loss of the last one, once the device is idle again.
      parameters: number of weights.
      initial_loss: mean loss in nats on the task's first batch with the task's weights.
      versions: versions of the relevant libraries.
      notes: settings that a reader of the table should know.
    """
    answer({"parameters": parameters, "initial_loss": initial_loss, "versions": dict(versions), "notes": notes})
    for line in sys.stdin:
        word, count = line.split()
        if word != "block":
            raise ValueError(f"unknown request {line!r}; known is 'block N'")
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        loss = run_steps(int(count))
        seconds = time.perf_counter() - start
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answer(
            {
                "seconds": seconds,
                "loss": loss,
                "page_faults": usage.ru_minflt - faults,
                "peak_resident_bytes": usage.ru_maxrss * 1024,
            }
        )


# ---- In the parent ---------------------------------------------------------------------------------------------


class WorkerError(Exception):
    """A worker ended, or violated the protocol."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """A worker's description of itself; see `serve`."""

    parameters: int
    initial_loss: float
    versions: dict[str, str]
    notes: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The measurements of a block.

    Attributes:
      seconds: time in the worker, from an idle device to an idle device.
      loss: loss of the last step, nats.
      page_faults: minor faults of the worker's process in the block.
      peak_resident_bytes: the largest memory of the process so far.
    """

    seconds: float
    loss: float
    page_faults: int
    peak_resident_bytes: int


class Worker:
    """A worker process, started and warm, running in `folder`. Its standard error goes to `log`.

    Raises:
      WorkerError: it does not become ready; the message ends with the last lines of the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
    ):
        clean = {key: value for key, value in os.environ.items() if key not in _SCRUBBED}
        self.log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env={**clean, **(environment or {})},
            )
        try:
            self.ready = Ready(**self._read())
        except BaseException:
            self.close()
            raise

    def run_block(self, n_steps: int) -> Answer:
        """Run a block of `n_steps` steps, while every other worker waits."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"block {n_steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return Answer(**self._read())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        try:
            return json.loads(line)
        except ValueError:
            raise WorkerError(f"not a line of the protocol: {line!r}") from None

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "the worker ended: " + " | ".join(lines[-3:])
