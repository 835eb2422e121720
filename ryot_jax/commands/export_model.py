"""`ryot export`: writes a checkpoint as a Hugging Face GPT-2."""

import dataclasses
from pathlib import Path

from ryot_jax.cli import CheckpointCommand, Context, option
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Export(CheckpointCommand):
    """Writes a checkpoint as a Hugging Face GPT-2 (model.safetensors, config.json, tokenizer.json ...).

    It takes models with learned positions, layer norm and gelu.
    """

    name = "export"
    usage = ("[--run=RUN] --to=DIR",)
    to: str | None = option("DIR", "a folder that is not there yet, or is empty")

    def check(self) -> None:
        """Finds the checkpoint and checks that the folder is absent or empty."""
        super().check()
        if not self.to:
            raise ConfigError("--to is missing, such as --to=exported")
        folder = Path(self.to)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--to={folder} is there already, and is no empty folder; name another one")

    def run(self, context: Context) -> int:
        """Writes the folder atomically; returns 0."""
        from ryot_jax.runs import gpt2_export
        from ryot_jax.runs.session import open_session

        assert self.to is not None
        session = open_session(self.config, context.console.line, cached_programs=False)
        return gpt2_export.export(session, self.chosen, Path(self.to), context.console)
