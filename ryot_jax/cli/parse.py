"""Parses a command line into a command; every mistake raises `ConfigError`, which ends with exit code 2.

absl parses the flags, `ryot_jax.config` the config files and overrides.
"""

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from types import ModuleType

from absl import flags

from ryot_jax.cli.command import Command, options
from ryot_jax.cli.shared import ConfigCommand
from ryot_jax.config import fields, get_default
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.suggestions import did_you_mean

Commands = Mapping[str, type[Command]]


def discover(package: ModuleType) -> Commands:
    """The commands declared in the modules of a package, by name: the default one first, the others alphabetically."""
    commands: dict[str, type[Command]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Command) and value.__module__ == loaded.__name__:
                assert value.name not in commands, f"two commands are named {value.name}"
                commands[value.name] = value
    return dict(sorted(commands.items(), key=lambda item: (not item[1].is_default, item[0])))


def parse(argv: Sequence[str], commands: Commands) -> Command:
    """Parses and checks a command line.

    Args:
      argv: the words after the program's name.
      commands: commands by name, see `discover`.

    Raises:
      ConfigError: an unknown command, flag or field, an invalid value, or a missing file or run.
    """
    words = list(argv)
    is_named = bool(words) and not words[0].startswith("-")
    if any(word in ("--help", "-help", "-h") for word in words):
        return commands["help"](topic=words[0] if is_named and words[0] in commands else "")  # type: ignore[call-arg]
    if "--version" in words:
        return commands["version"]()
    name = words.pop(0) if is_named else next(name for name, command in commands.items() if command.is_default)
    if name in commands:
        return _command(commands[name], words)
    if name.endswith((".py", ".json")):
        raise ConfigError(f"unknown command {name!r}; did you mean --config={name}?")
    raise ConfigError(f"unknown command {name!r}{did_you_mean(name, commands)}; --help lists them")


def _command(command: type[Command], words: Sequence[str]) -> Command:
    overrides: dict[str, tuple[str, ...]] = {}
    if issubclass(command, ConfigCommand):
        words, found = _split_overrides(words)
        overrides["overrides"] = tuple(found)
    known, declared = flags.FlagValues(), options(command)
    for one in declared.values():
        one.define(known)
    _parse_flags(known, command.name, words)
    values = {field: one.convert(known[one.flag].value) for field, one in declared.items()}
    made = command(**values, **overrides)
    made.check()
    return made


def _parse_flags(known: flags.FlagValues, command: str, words: Sequence[str]) -> None:
    try:
        rest = known([command, *words])[1:]
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, list(known))
        raise ConfigError(f"{command} has no option --{error.flagname}{hint}") from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest:
        file = rest[0].endswith((".py", ".json"))
        hint = f"; did you mean --config={rest[0]}?" if file else ""
        raise ConfigError(f"unexpected word {rest[0]!r} after {command}{hint}")


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates overrides from the other words, and rewrites each as `--config.FIELD=VALUE`."""
    switches = {path for path, value in fields(get_default()) if isinstance(value, bool)}
    others: list[str] = []
    overrides: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=.*)?", word, flags=re.DOTALL)
        if not match:
            others.append(word)
            continue
        negated, path, value = match.groups()
        if value is None and path in switches:
            value = "=false" if negated else "=true"
        elif negated:
            raise ConfigError(f"{word}: only a field that is true or false can be negated")
        elif value is None:
            if not remaining:
                raise ConfigError(f"{word} needs a value, as in {word}=VALUE")
            value = f"={remaining.pop(0)}"
        overrides.append(f"--config.{path}{value}")
    return others, overrides
