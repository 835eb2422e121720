"""The declaration of a command: a frozen dataclass whose fields are its options.

    @dataclasses.dataclass(frozen=True)
    class Hello(Command):
        \"\"\"Greets a person.\"\"\"

        name = "hello"
        usage = ("[--who=NAME]",)
        who: str = option("NAME", "whom to greet", default="world")

        def run(self, context: Context) -> int:
            context.console.line(f"hello, {self.who}")
            return 0

A field's name, type and default are those of its flag; the class docstring is the description in the help text.
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

_OPTION = "option"  # key in the metadata of a field


@dataclasses.dataclass(frozen=True)
class Context:
    """The environment of a command: the console, and the allocator settings made before JAX was imported."""

    console: Console
    allocator: AllocatorRecord


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line: each field is an option, each instance one invocation.

    Subclasses are dataclasses too. They import JAX and everything on top of it within `run`.

    Attributes:
      name: name of the command.
      usage: examples of the words after the name, one per line of the help text.
      is_default: whether it runs when no command is named.
    """

    name: ClassVar[str]
    usage: ClassVar[tuple[str, ...]] = ("",)
    is_default: ClassVar[bool] = False

    @functools.cached_property
    def config(self) -> ConfigDict | None:
        """The config of the command, from a file or a run; None: it has none."""
        return None

    def check(self) -> None:
        """Checks the options and finds the files that they name, before JAX is imported.

        Raises:
          ConfigError: an option is missing, contradicts another, or names a file that does not exist.
        """
        _ = self.config

    def run(self, context: Context) -> int:
        """Does the command's work and returns the exit code.

        Raises:
          RyotError: one of the named errors of `runtime.errors`; files written before it are kept.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Option:
    """One option, as declared by its field.

    Attributes:
      flag: name on the command line.
      metavar: placeholder of the value in the help text; '' for a switch.
      help: one sentence without a full stop.
      default_text: the default as the help text shows it; '': not shown.
      kind: type of the value, without None.
      default: the default value; None: there is none.
      lower, upper: inclusive bounds of a number.
      choices: the allowed values; (): any.
      separated: whether several values are separated by commas; otherwise the flag is repeated.
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
        """Defines the absl flag that parses the option."""
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
        """Converts the value of the flag to the type of the field."""
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
    """Declares a field of a `Command` as an option; the arguments are attributes of `Option`.

    Args:
      metavar: placeholder of the value in the help text; '' for a switch.
      help: one sentence without a full stop.
      default: the default value; None: there is none.
      flag: name on the command line; '': the name of the field.
      default_text: description of the default; '': the value itself.
      lower: the smallest number allowed.
      upper: the largest number allowed.
      choices: the allowed values; (): any.
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
    """The options of a command by field, inherited ones first."""
    hints = get_type_hints(command)
    fields = [field for field in dataclasses.fields(command) if _OPTION in field.metadata]
    found = {field.name: _option(field, hints[field.name]) for field in fields}
    assert len({one.flag for one in found.values()}) == len(found), f"{command.name}: two options have one flag"
    return found


def description(command: type[Command]) -> str:
    """The description of a command: its docstring without the section on attributes."""
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
