"""Which checkpoint of which run a command begins with; no JAX is needed to find out."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.config import SCHEDULED_TRAININGS, load
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import RunDirectory, find_run


@dataclasses.dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint by name.

    Attributes:
      run: a run directory that exists.
      arm: one of its arms, or a training beside them.
      checkpoint: 'best' or 'latest'.
    """

    run: Path
    arm: str
    checkpoint: str


def best_of(directory: RunDirectory, arm: str) -> ChosenCheckpoint:
    """The checkpoint of an arm with the lowest held-out loss, which need not be its last."""
    return ChosenCheckpoint(directory.path, arm, "best")


def choose(
    workdir: Path, run_name: str, arm: str | None, checkpoint: str | None
) -> tuple[ConfigDict, ChosenCheckpoint]:
    """Finds a checkpoint and the config of its training.

    Args:
      workdir: where run directories are.
      run_name: as `find_run` takes it.
      arm: None: the last one of the comparison.
      checkpoint: None: the best one, or of an imported model, whose loss is not known, the latest.

    Raises:
      ConfigError: there is no such run, or it has no such arm.
    """
    run = find_run(workdir, run_name)
    config = load(str(run.config), ())
    arms = config.comparison.arms
    kept = [training.name for training in SCHEDULED_TRAININGS if run.config_of(training.name).is_file()]
    if arm in kept:  # its model may be another one than that of the arms
        config = load(str(run.config_of(arm)), ())
    elif arm is not None and arm not in arms:
        raise ConfigError(f"--arm={arm}: run {run.path} has the arms {', '.join((*arms, *kept))}")
    default = "latest" if run.imported.is_file() else "best"
    return config, ChosenCheckpoint(run.path, arm or arms[-1], checkpoint or default)
