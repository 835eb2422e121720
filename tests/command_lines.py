"""Command lines for tests: parsed as the program parses them, and run with a console of the test's.

A process of its own takes seconds for its imports alone, so a test starts one only where processes or signals matter.
"""

import io
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ryot_jax import cli, commands, main
from ryot_jax.cli import Command, Context
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.runtime.console import Console

REPOSITORY = Path(__file__).parents[1]
UNTOUCHED = AllocatorRecord(applied=False, settings={}, reason="a test")


def parse(words: Sequence[str]) -> Command:
    """The command of a command line."""
    return cli.parse(words, cli.discover(commands))


def run(words: Sequence[str], console: Console) -> int:
    """Runs a command line within this process, whose allocator stays as it is; returns the exit code."""
    return parse(words).run(Context(console, UNTOUCHED))


def program(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What `python -m ryot_jax.main *words` does in the repository, with its output redirected, within this process."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(main, "configure_allocator", lambda enabled: UNTOUCHED)
        code = main.run(words, Console(output), Console(errors))
    texts = (stream.buffer.getvalue().decode() for stream in (output, errors))
    return subprocess.CompletedProcess(list(words), code, *texts)
