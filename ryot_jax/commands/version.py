"""`ryot version`: prints the version."""

import dataclasses

import ryot_jax
from ryot_jax.cli import Command, Context
from ryot_jax.runtime.errors import EXIT_PASS


@dataclasses.dataclass(frozen=True)
class Version(Command):
    """Prints the version, as --version does."""

    name = "version"

    def run(self, context: Context) -> int:
        """Prints the version and returns 0."""
        context.console.line(ryot_jax.__version__)
        return EXIT_PASS
