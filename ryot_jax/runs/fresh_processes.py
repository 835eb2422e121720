"""The stage that times block pairs in fresh processes, to include the variance of recompilation and memory layout.

Each process runs `timing_process`.
"""

import json
import subprocess
import sys
from pathlib import Path

from ryot_jax.comparison.outcomes import ProcessTimes
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, RyotError
from ryot_jax.runtime.run_directory import RunDirectory


def run_all(directory: RunDirectory, count: int, console: Console) -> list[ProcessTimes]:
    """Runs `count` fresh processes in sequence and returns their times; processes with times on disk are skipped.

    Raises:
      RyotError: a process ended with an error.
      CheckpointError: a file of times is damaged.
    """
    times = []
    for index in range(1, count + 1):
        path = directory.process(index)
        if not path.is_file():
            console.line(f"process {index + 1} of {count + 1}: compiling anew and timing block pairs")
            path.parent.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "ryot_jax.runs.timing_process", str(directory.path), str(index)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode or not path.is_file():
                raise RyotError(
                    f"the timing process {index + 1} ended with exit code {done.returncode}:\n{done.stdout[-2000:]}"
                )
        times.append(_read(path))
        seconds = sum(times[-1].compile_seconds.values())
        console.line(f"process {index + 1} of {count + 1}: compiled in {seconds:.1f} s")
    return times


def _time_all(run: Run) -> StageResult[list[ProcessTimes]]:
    return StageResult(run_all(run.directory, run.config.comparison.processes - 1, run.console))


def _read(path: Path) -> ProcessTimes:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return ProcessTimes(
            {name: tuple(map(float, seconds)) for name, seconds in value["seconds_per_step"].items()},
            {name: float(seconds) for name, seconds in value["compile_seconds"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); remove it to time that process anew") from error


STAGE = Stage("fresh processes", _time_all)
