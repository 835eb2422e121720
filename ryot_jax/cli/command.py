"""The declaration of a command: a frozen dataclass whose fields are its options.

    @dataclasses.dataclass(frozen=True)
    class Hello(Command):
        \"\"\"Greets somebody.\"\"\"

        name = "hello"
        usage = ("[--who=NAME]",)
        who: str = option("NAME", "the one to greet", default="world")

        def run(self, context: Context) -> int:
            context.console.line(f"hello, {self.who}")
            return 0

The name of a field is that of its flag, its type and default are the flag's, and the class docstring is the description
in the help text.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, get_args, get_type_hints

from absl import flags
from ml_collections import ConfigDict

from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.runtime.console import Console

_OPTION = "option"  # in the metadata of a field


@dataclasses.dataclass(frozen=True)
class Context:
    """The surroundings of a command: where it prints, and what was set before JAX was imported."""

    console: Console
    allocator: AllocatorRecord


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line that was understood: each field is an option, each instance one invocation.

    Subclasses are dataclasses too. They import JAX and everything on top of it within `run`.

    Attributes:
      name: of the command.
      usage: examples of the words after the name, a line each.
      is_default: whether it is meant where no command is named.
    """

    name: ClassVar[str]
    usage: ClassVar[tuple[str, ...]] = ("",)
    is_default: ClassVar[bool] = False

    @functools.cached_property
    def config(self) -> ConfigDict | None:
        """The config of the command, of a file or of a run; None: it has none."""
        return None

    def check(self) -> None:
        """Finds what the options name, before anything is imported or run.

        Raises:
          ConfigError: an option is missing, contradicts another, or names something that is not there.
        """
        _ = self.config

    def run(self, context: Context) -> int:
        """Does the command's work and returns the exit code.

        Raises:
          RyotError: see the named errors; files that were written before stay.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Option:
    """One option as its field declares it.

    Attributes:
      flag: its name on the command line.
      metavar: stands for its value in the help text; '' for a switch.
      help: one sentence without a full stop.
      default_text: of the default in the help text; '': it is not shown.
      kind: type of its value, without None.
      default: None: there is none.
      lower, upper: bounds of a number, both allowed.
      choices: the values that it may have; (): any.
      separated: whether several values are separated by commas; else each has a flag of its own.
    """

    flag: str
    metavar: str
    help: str
    default_text: str
    kind: Any
    default: Any
    lower: float | None
    upper: float | None
    choices: tuple[str, ...]
    separated: bool

    def define(self, known: flags.FlagValues) -> None:
        """Defines the flag that parses it."""
        common = (self.flag, self.default, self.help)
        bounds: Any = dict(lower_bound=self.lower, upper_bound=self.upper)
        if self.kind is bool:
            flags.DEFINE_boolean(*common, flag_values=known)
        elif self.kind is int:
            flags.DEFINE_integer(*common, flag_values=known, **bounds)
        elif self.kind is float:
            flags.DEFINE_float(*common, flag_values=known, **bounds)
        elif self.choices:
            flags.DEFINE_enum(self.flag, self.default, list(self.choices), self.help, flag_values=known)
        elif self.separated:
            flags.DEFINE_list(*common, flag_values=known)
        elif self.kind == tuple[str, ...]:
            flags.DEFINE_multi_string(self.flag, None, self.help, flag_values=known)
        else:
            default = None if self.default is None else str(self.default)
            flags.DEFINE_string(self.flag, default, self.help, flag_values=known)

    def convert(self, value: Any) -> Any:
        """The value of the flag as a value of the field."""
        if value is None:
            return self.default
        if self.kind is Path:
            return Path(value)
        return tuple(value) if self.kind == tuple[str, ...] else value


def option(
    metavar: str,
    help: str,
    *,
    default: Any = None,
    flag: str = "",
    default_text: str = "",
    lower: float | None = None,
    upper: float | None = None,
    choices: tuple[str, ...] = (),
    separated: bool = False,
) -> Any:
    """A field of a `Command` that is an option; see `Option` for the arguments.

    Args:
      metavar: stands for its value in the help text; '' for a switch.
      help: one sentence without a full stop.
      default: None where there is none.
      flag: its name on the command line; '': that of the field.
      default_text: describes the default; '': the value itself does.
      lower: the smallest number allowed.
      upper: the largest number allowed.
      choices: the values that it may have.
      separated: whether several values are separated by commas.
    """
    declared = dict(
        metavar=metavar,
        help=help,
        flag=flag,
        default_text=default_text,
        lower=lower,
        upper=upper,
        choices=choices,
        separated=separated,
    )
    return dataclasses.field(default=default, metadata={_OPTION: declared})


def options(command: type[Command]) -> Mapping[str, Option]:
    """The options of a command by field, those that it inherits first."""
    hints = get_type_hints(command)
    fields = [field for field in dataclasses.fields(command) if _OPTION in field.metadata]
    found = {field.name: _option(field, hints[field.name]) for field in fields}
    assert len({one.flag for one in found.values()}) == len(found), f"{command.name}: two options have one flag"
    return found


def description(command: type[Command]) -> str:
    """The description of a command: its docstring, without what it says of attributes."""
    text = inspect.getdoc(command)
    assert text, f"{command.name} has no docstring, which is its description"
    return " ".join(text.split("\n\nAttributes:")[0].split())


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    declared = dict(field.metadata[_OPTION])
    kind = next(part for part in get_args(hint) if part is not type(None)) if isinstance(hint, UnionType) else hint
    declared["flag"] = declared["flag"] or field.name
    has_value = field.default is not None and field.default != () and kind is not bool
    if not declared["default_text"] and has_value:
        declared["default_text"] = f"{field.default:g}" if kind is float else str(field.default)
    return Option(kind=kind, default=field.default, **declared)
