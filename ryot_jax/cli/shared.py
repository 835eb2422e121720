"""Options that several commands share: a config with overrides, and a checkpoint of a run."""

import dataclasses
import functools
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.cli.command import Command, option
from ryot_jax.config import SCHEDULED_TRAININGS, load
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint, choose
from ryot_jax.runtime.errors import ConfigError

_BESIDE = [training.name for training in SCHEDULED_TRAININGS]


@dataclasses.dataclass(frozen=True)
class ConfigCommand(Command):
    """A command that takes a config.

    Attributes:
      config_file: path of the config.
      overrides: words such as `--config.training.epochs=2`.
    """

    config_file: str | None = option(
        "FILE",
        "a Python file with get_config(), or the config.json of a run. A Python config is a program: it is executed. "
        "JSON is only read",
        flag="config",
    )
    overrides: tuple[str, ...] = ()

    @functools.cached_property
    def config(self) -> ConfigDict:
        """The config of the file with the overrides applied."""
        if not self.config_file:
            raise ConfigError("--config is missing; for a first run: --config=configs/smoke.py")
        return load(self.config_file, self.overrides)


@dataclasses.dataclass(frozen=True)
class CheckpointCommand(Command):
    """A command that takes a checkpoint of a run."""

    run_name: str = option("RUN", "the run whose checkpoint is taken", default="latest", flag="run")
    workdir: Path = option("DIR", 'where "latest" is looked for', default=Path("runs"))
    checkpoint: str | None = option(
        "WHICH",
        "best or latest",
        choices=("best", "latest"),
        default_text="best; latest if imported, as no loss is known then",
    )
    arm: str | None = option(
        "NAME",
        f"baseline or optimized, or where they were trained {', '.join(_BESIDE[:-1])} or {_BESIDE[-1]}",
        default_text="the last of the first two that the run has",
    )

    @property
    def config(self) -> ConfigDict:
        """The config that the checkpoint was trained with."""
        return self._found[0]

    @property
    def chosen(self) -> ChosenCheckpoint:
        """The checkpoint that the options select."""
        return self._found[1]

    @functools.cached_property
    def _found(self) -> tuple[ConfigDict, ChosenCheckpoint]:
        return choose(self.workdir, self.run_name, self.arm, self.checkpoint)
