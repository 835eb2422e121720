"""`ryot tune`: measures kernels and scheduled steps on the sizes of a config, and keeps the fastest kernels."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ryot_jax.runs import tuning
from ryot_jax.runs.planned_training import PlannedTraining, ProgramTiming, planned_trainings, saved_seconds
from ryot_jax.runs.scheduled_arm import step_times
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError


def measure(config: ConfigDict, console: Console) -> int:
    """Measures without training, and prints the measurements; returns 0."""
    session = open_session(config, console.line, trains=True)
    outcome = tuning.tune(config, session.model, session.spec, session.tuning_cache, log=console.line)
    console.line()
    for line in outcome.table():
        console.line(line)
    if config.scaling.enabled:
        kernels = session.resolve().plan
        for planned in planned_trainings(config):
            try:
                _print_step_times(planned, step_times(planned, config, kernels), console)
            except ConfigError as error:  # a run skips such a training too
                console.line(f"{planned.name}: cannot be trained: {error}")
    return 0


def _print_step_times(planned: PlannedTraining, timings: Sequence[ProgramTiming], console: Console) -> None:
    """Prints one line per size of steps: their time, and whether they repay a separate program."""
    console.line()
    console.line(f"{planned.name}: {planned.phases}")
    for timing in timings:
        saved, static = saved_seconds(timing, timings), timing.static
        worth = ""
        if saved is not None:
            repays = "repays" if saved > timing.compile_seconds else "does NOT repay"
            worth = f"; saves {saved:.1f} s of as many tokens in the largest steps, which {repays} its compilation"
        console.line(
            f"  {timing.steps:,} steps of {static.batch_size} x {static.seq_len}, {static.depth or 'all'} layers: "
            f"{1e3 * timing.seconds / timing.steps:.2f} ms each, {timing.compile_seconds:.1f} s compiling{worth}"
        )
