"""`ryot import`: makes a run directory of a Hugging Face GPT-2."""

import dataclasses
import re
from pathlib import Path

from ryot_jax.cli import Command, Context, option
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import NAME_PATTERN, NAME_RULE


@dataclasses.dataclass(frozen=True)
class Import(Command):
    """Makes a run directory of a Hugging Face GPT-2, for generate and export; it cannot be resumed."""

    name = "import"
    usage = ("--from=DIR [--name=NAME]",)
    source: str | None = option(
        "DIR",
        "a folder with config.json and model.safetensors; with a tokenizer too, as tokenizer.json or as vocab.json and "
        "merges.txt, for generate",
        flag="from",
    )
    workdir: Path = option("DIR", "where run directories are made", default=Path("runs"))
    wanted_name: str | None = option("NAME", "of the run", flag="name", default_text="the folder's name")

    @property
    def folder(self) -> Path:
        """The folder with the model.

        Raises:
          ConfigError: the folder does not exist.
        """
        if not self.source:
            raise ConfigError("--from is missing: a folder with the config.json and the model.safetensors of a GPT-2")
        folder = Path(self.source)
        if not folder.is_dir():
            raise ConfigError(f"--from={folder}: no such folder")
        return folder

    @property
    def run_name(self) -> str:
        """The name of the run.

        Raises:
          ConfigError: the name is not allowed.
        """
        chosen = self.folder.resolve().name if self.wanted_name is None else self.wanted_name
        if not re.fullmatch(NAME_PATTERN, chosen):
            raise ConfigError(f"--name={chosen}: must be {NAME_RULE}")
        return chosen

    def check(self) -> None:
        """Finds the folder and checks the name of the run."""
        _ = self.run_name

    def run(self, context: Context) -> int:
        """Makes the run directory atomically; returns 0."""
        from ryot_jax.runs import gpt2_import

        return gpt2_import.make_run(self.folder, self.workdir, self.run_name, context.allocator, context.console)
