"""The checkpoint of a run that a command takes, found without importing JAX."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.config import SCHEDULED_TRAININGS, load
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import RunDirectory, find_run


@dataclasses.dataclass(frozen=True)
class ChosenCheckpoint:
    """The name of a checkpoint.

    Attributes:
      run: path of an existing run directory.
      arm: name of an arm, or of a training beside the arms.
      checkpoint: 'best' or 'latest'.
    """

    run: Path
    arm: str
    checkpoint: str


def best_of(directory: RunDirectory, arm: str) -> ChosenCheckpoint:
    """The checkpoint of an arm with the lowest held-out loss."""
    return ChosenCheckpoint(directory.path, arm, "best")


def choose(
    workdir: Path, run_name: str, arm: str | None, checkpoint: str | None
) -> tuple[ConfigDict, ChosenCheckpoint]:
    """Finds a checkpoint and the config of its training.

    Args:
      workdir: folder of the run directories.
      run_name: name of the run, see `find_run`.
      arm: name of the arm; None: the last one of the comparison.
      checkpoint: 'best' or 'latest'; None: the best, or the latest of an imported model, whose loss is not known.

    Raises:
      ConfigError: the run does not exist, or has no such arm.
    """
    run = find_run(workdir, run_name)
    config = load(str(run.config), ())
    arms = config.comparison.arms
    kept = [training.name for training in SCHEDULED_TRAININGS if run.config_of(training.name).is_file()]
    if arm in kept:  # its model may differ from that of the arms
        config = load(str(run.config_of(arm)), ())
    elif arm is not None and arm not in arms:
        raise ConfigError(f"--arm={arm}: run {run.path} has the arms {', '.join((*arms, *kept))}")
    default = "latest" if run.imported.is_file() else "best"
    return config, ChosenCheckpoint(run.path, arm or arms[-1], checkpoint or default)
