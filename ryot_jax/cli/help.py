"""The help text, generated from the declarations of the commands."""

import textwrap
from collections.abc import Iterator

from ryot_jax.cli.command import Command, Option, description, options
from ryot_jax.cli.parse import Commands
from ryot_jax.cli.shared import ConfigCommand

_WIDTH = 100
_COLUMN = 23  # at which the help of an option begins

_BEGINNING = "Train a transformer language model as two arms, baseline and optimized, and compare them."
_WORDS = '"ryot" and "python -m ryot_jax.main" are the same program. RUN is a run directory or "latest".'
_END = """\
"ryot COMMAND --help" prints the part of one command. JAX's own settings are environment variables,
such as JAX_PLATFORMS=cpu.

Exit codes: 0 all criteria pass, 1 crash, 2 usage or config, 3 a criterion failed, 4 inconclusive,
5 data, 6 checkpoint, 7 non-finite loss, 75 preempted and saved, 130 interrupted."""


def help_text(commands: Commands, topic: str = "") -> str:
    """The help text of the command `topic`, or of all commands if it is ''."""
    if topic:
        lines = [*_usage(commands[topic]), "", *_command(commands[topic], {})]
        return "\n".join([*lines, "", _WORDS, "", _END])
    usage = [line for command in commands.values() for line in _usage(command)]
    lines = [_BEGINNING, "", *usage, "", _WORDS, ""]
    explained: dict[Option, str] = {}
    for command in commands.values():
        lines += [*_command(command, explained), ""]
    return "\n".join([*lines, _END])


def _usage(command: type[Command]) -> list[str]:
    name = f"[{command.name}]" if command.is_default else command.name
    return [f"  ryot {name} {words}".rstrip() for words in command.usage]


def _command(command: type[Command], explained: dict[Option, str]) -> Iterator[str]:
    """The lines of one command. `explained` maps each option with help above to the command that has it."""
    yield f"{command.name}{' (the default)' if command.is_default else ''}"
    yield from textwrap.wrap(description(command), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    again: dict[str, list[str]] = {}
    for one in options(command).values():
        if one in explained:
            again.setdefault(explained[one], []).append(_label(one))
            continue
        explained[one] = command.name
        yield from _entry(_label(one), f"{one.help} (default: {one.default_text})" if one.default_text else one.help)
        if one.flag == "config" and issubclass(command, ConfigCommand):
            yield from _entry(
                "--config.FIELD=VALUE", "override one field, such as --config.training.learning_rate=3e-4"
            )
    for where, labels in again.items():
        text = f"{', '.join(labels)}: as for {where}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _label(one: Option) -> str:
    return f"--{one.flag}={one.metavar}" if one.metavar else f"--{one.flag}"


def _entry(label: str, text: str) -> Iterator[str]:
    """The lines of an option and, in a second column, its wrapped help."""
    first, *rest = textwrap.wrap(text, _WIDTH - _COLUMN)
    start = f"  {label}"
    if len(start) < _COLUMN:
        yield f"{start:<{_COLUMN}}{first}"
    else:
        yield start
        yield f"{'':<{_COLUMN}}{first}"
    yield from (f"{'':<{_COLUMN}}{line}" for line in rest)
