"""`ryot train`: trains both arms of one config, compares them, and keeps everything in one run directory."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from ryot_jax.cli import ConfigCommand, Context, option
from ryot_jax.config import differences, load
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import RunDirectory, find_run

if TYPE_CHECKING:
    from ryot_jax.runs.run import Run

RESUME_MAY_CHANGE = ("data.cache_dir", "metrics.")  # places of files and display of metrics, never a number


@dataclasses.dataclass(frozen=True)
class Train(ConfigCommand):
    """Trains both arms of a config, compares them and writes a report."""

    name = "train"
    usage = (
        "--config=configs/scaled.py [--config.FIELD=VALUE ...] [--dry_run]",
        "--resume=RUN [--config.FIELD=VALUE ...]",
    )
    is_default = True
    workdir: Path = option("DIR", "where run directories are made", default=Path("runs"))
    dry_run: bool = option("", "print the resolved config and what the run would cost, then stop", default=False)
    resume: str | None = option("RUN", "resume a run from its latest checkpoint, with its own config")

    @functools.cached_property
    def resumed(self) -> RunDirectory | None:
        """The run to resume, or None."""
        return None if self.resume is None else find_run(self.workdir, self.resume, trained=True)

    @functools.cached_property
    def config(self) -> ConfigDict:
        """The config of the file, or else of the run to resume, with the overrides applied."""
        if self.resumed is None:
            return super().config
        stored = load(str(self.resumed.config), ())
        config = load(self.config_file or str(self.resumed.config), self.overrides)
        _refuse_other_config(stored, config, self.resumed.path)
        return config

    def run(self, context: Context) -> int:
        """Trains, compares and reports; returns the exit code of the verdict."""
        if self.dry_run:
            from ryot_jax.runs import dry_run

            return dry_run.estimate(self.config, context.console)
        from ryot_jax.runs.run import open_run

        with open_run(
            self.config,
            workdir=self.workdir,
            resume=self.resumed,
            allocator=context.allocator,
            console=context.console,
        ) as run:
            return _train(run)


def _train(run: "Run") -> int:
    """Carries out the stages of a run and returns the exit code of its verdict."""
    from ryot_jax.comparison.results import Measurements
    from ryot_jax.runs import (
        arm_facts,
        compiled_arms,
        compression,
        conclusion,
        control_runs,
        decoding_speed,
        fresh_processes,
        roofline,
        stage,
        text_preparation,
        time_to_loss,
        training_pairs,
    )

    stages = stage.Stages(run)
    entropies = stages(text_preparation.STAGE)
    compiled = stages(compiled_arms.STAGE)
    pairs = stages(training_pairs.STAGE, compiled)
    processes = stages(fresh_processes.STAGE)
    controls = stages(control_runs.STAGE, compiled, entropies)
    reached = stages(time_to_loss.STAGE, compiled, pairs[0])
    peak_memory = conclusion.peak_memory_bytes()  # before the roofline, which takes hundreds of megabytes of its own
    arms_under_roof = stages(roofline.STAGE, compiled, pairs)
    last = compiled.arms[-1].name
    compressed = stages(compression.STAGE, last)
    decoded = stages(decoding_speed.STAGE, last)
    facts = stages(arm_facts.STAGE, compiled)
    measured = Measurements(
        pairs=pairs,
        processes=processes,
        controls=controls,
        roofline=arms_under_roof,
        compression=compressed,
        decoding=decoded,
        time_to_loss=reached,
    )
    return conclusion.conclude(run, stages, compiled, entropies, facts, measured, peak_memory=peak_memory)


def _refuse_other_config(stored: ConfigDict, wanted: ConfigDict, run: Path) -> None:
    changed = [
        f"{path}: the run has {old!r}, asked for is {new!r}"
        for path, (old, new) in differences(stored, wanted).items()
        if not path.startswith(RESUME_MAY_CHANGE)
    ]
    if changed:
        first, last = f"{run} cannot be resumed with another config:", "start a new run without --resume"
        raise ConfigError("\n".join([first, *changed, last]))
