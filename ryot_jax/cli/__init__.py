"""The command line: declaration of commands, parsing, and the help text.

A command is a frozen dataclass in its own file in `ryot_jax.commands`; its fields are its options. This package does
not import JAX, as the memory allocator is set between parsing and the first import of JAX.
"""

from ryot_jax.cli.command import Command, Context, option
from ryot_jax.cli.help import help_text
from ryot_jax.cli.parse import discover, parse
from ryot_jax.cli.shared import CheckpointCommand, ConfigCommand

__all__ = [
    "CheckpointCommand",
    "Command",
    "ConfigCommand",
    "Context",
    "discover",
    "help_text",
    "option",
    "parse",
]
