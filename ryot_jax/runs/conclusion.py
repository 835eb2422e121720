"""The end of a run: its results and reports on disk, its summary on the console, its exit code."""

import dataclasses
import resource
import sys
from collections.abc import Sequence

from ryot_jax.comparison import results
from ryot_jax.comparison.criteria import EXIT_CODES
from ryot_jax.comparison.results import ArmFacts, Measurements
from ryot_jax.comparison.schema import CompressionResult
from ryot_jax.data.entropy import NgramEntropies
from ryot_jax.report import files as report_files
from ryot_jax.report.formats import terminal
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stages
from ryot_jax.runtime.files import display_path
from ryot_jax.runtime.progress import format_duration


def conclude(
    run: Run,
    stages: Stages,
    compiled: CompiledArms,
    entropies: NgramEntropies,
    facts: Sequence[ArmFacts],
    measurements: Measurements,
    *,
    peak_memory: int,
) -> int:
    """Judges and reports the run; returns the exit code of its verdict.

    Args:
      run: the run, with all stages done.
      stages: times and warnings of the stages.
      compiled: the arms, with the settings of the verdict.
      entropies: n-gram entropies that the model has to beat.
      facts: facts of each arm.
      measurements: the values of the measuring stages.
      peak_memory: bytes, see `peak_memory_bytes`.
    """
    seconds = stages.total()
    judged = results.assemble(
        measurements,
        facts,
        compiled.schedule,
        compiled.settings,
        name=run.config.name,
        data={**run.corpus.description, "data_hash": run.corpus.data_hash},
        entropies=dataclasses.asdict(entropies),
        manifest={
            **compiled.manifest,
            "seconds_in_all": seconds,
            "seconds_by_phase": stages.seconds,
            "peak_memory_bytes": peak_memory,
        },
        artifacts=_artifacts(run, measurements.compression),
        stated_at=compiled.stated_at,
        warnings=stages.warnings,
    )
    results.write(run.directory.results, judged)
    report_files.write(run.directory.path, judged)
    console, path = run.console, run.directory.path
    console.line()
    terminal.show(judged, console)
    console.line()
    console.line(f"finished in {format_duration(stages.total())}; report: {display_path(path / 'report.html')}")
    if run.config.checkpoint.enabled:
        console.line(f"next: ryot generate --run={display_path(path)} --prompt='def '")
    return EXIT_CODES[judged.verdict]


def peak_memory_bytes() -> int:
    """The peak resident set size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _artifacts(run: Run, compression: CompressionResult | None) -> dict[str, str]:
    """The files of the run: description -> path relative to its directory."""
    directory = run.directory
    paths = {
        "config": directory.config,
        "manifest": directory.manifest,
        "metrics": directory.metrics,
        "results": directory.results,
        "log": directory.log,
        "estimands": directory.estimands,
        "record": directory.record,
    }
    if run.config.checkpoint.enabled:
        paths["checkpoints"] = directory.checkpoints
    if compression is not None:
        paths["compressed"] = directory.path / compression.file
    return {name: str(path.relative_to(directory.path)) for name, path in paths.items()}
