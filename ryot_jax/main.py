"""The program: parse the command line, run the command, and turn errors into exit codes; nothing else.

    python -m ryot_jax.main --config=configs/scaled.py

Commands are the files of `ryot_jax.commands`; how one declares its options is in `ryot_jax.cli`.
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
    # Commands import what they need when they run: --help and a mistyped flag need not wait for JAX. And the allocator
    # is set before that, as some imports start threads (matplotlib's does where it has no list of fonts yet).
    allocator = configure_allocator(command.config is None or command.config.runtime.allocator)
    return command.run(cli.Context(console, allocator))


def console() -> int:
    """Runs the command line of this process, each error as one line on stderr; the console script `ryot`."""
    try:
        return main(sys.argv[1:], Console())
    except RyotError as error:
        Console(sys.stderr).line(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        Console(sys.stderr).line("interrupted; resume with: ryot --resume=latest")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(console())
