"""The program: parse the command line, run the command, and turn errors into exit codes.

    python -m ryot_jax.main --config=configs/scaled.py

Each command is a module of `ryot_jax.commands`; `ryot_jax.cli` declares and parses their options.
"""

import sys
from collections.abc import Sequence

from ryot_jax import cli, commands
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_INTERRUPTED, RyotError


def main(argv: Sequence[str], console: Console) -> int:
    """Runs one command line and returns its exit code."""
    command = cli.parse(argv, cli.discover(commands))
    # Commands import JAX only when they run, so that --help and a mistyped flag are fast. The allocator is set before
    # that, as some imports start threads (matplotlib's does when it has no list of fonts yet).
    allocator = configure_allocator(command.config is None or command.config.runtime.allocator)
    return command.run(cli.Context(console, allocator))


def run(argv: Sequence[str], output: Console, errors: Console) -> int:
    """Runs one command line and returns its exit code; an error becomes one line on `errors`."""
    try:
        return main(argv, output)
    except RyotError as error:
        errors.line(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        errors.line("interrupted; resume with: ryot --resume=latest")
        return EXIT_INTERRUPTED


def console() -> int:
    """Runs the command line of this process; the console script `ryot`."""
    return run(sys.argv[1:], Console(), Console(sys.stderr))


if __name__ == "__main__":
    sys.exit(console())
