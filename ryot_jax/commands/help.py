"""`ryot help`: prints the help text."""

import dataclasses

from ryot_jax import cli, commands
from ryot_jax.cli import Command, Context
from ryot_jax.runtime.errors import EXIT_PASS


@dataclasses.dataclass(frozen=True)
class Help(Command):
    """Prints this text, as --help does.

    Attributes:
      topic: the command to explain; '': all commands.
    """

    name = "help"
    topic: str = ""

    def run(self, context: Context) -> int:
        """Prints the help text and returns 0."""
        context.console.line(cli.help_text(cli.discover(commands), self.topic))
        return EXIT_PASS
