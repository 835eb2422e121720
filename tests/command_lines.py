"""Command lines for tests: parsed as the program parses them, and run with a console of the test's."""

from collections.abc import Sequence

from ryot_jax import cli, commands
from ryot_jax.cli import Command, Context
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.runtime.console import Console

UNTOUCHED = AllocatorRecord(applied=False, settings={}, reason="a test")


def parse(words: Sequence[str]) -> Command:
    """The command of a command line."""
    return cli.parse(words, cli.discover(commands))


def run(words: Sequence[str], console: Console) -> int:
    """Runs a command line within this process, whose allocator stays as it is; returns the exit code."""
    return parse(words).run(Context(console, UNTOUCHED))
