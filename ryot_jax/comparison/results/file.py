"""Writes and reads `results.json`, whose records are declared in `schema`."""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import msgspec

from ryot_jax.comparison.results.migration import MIGRATED_VERSIONS, migrated
from ryot_jax.comparison.schema import SCHEMA_VERSION, Results, Verdict
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.files import write_text
from ryot_jax.runtime.json_values import plain

T = TypeVar("T")
_REMEDY = "restore the file, or resume the run (ryot --resume=RUN), which writes it anew"
_AT = re.compile(r" - at `\$(.*)`$", re.DOTALL)
_TYPES = {"object": "an object", "array": "a list", "null": "null"}


def write(path: pathlib.Path, results: Any) -> None:
    """Writes a record or other JSON values to `path` atomically."""
    write_text(path, to_text(results))


def to_text(value: Any) -> str:
    """`value` as strict JSON text: no NaN tokens, fields in the order of their declaration."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def settled(record: T) -> T:
    """The record as it will be read back: Python values for NumPy's, None for NaN and infinities.

    Raises:
      ValueError: a value does not have its field's type, or is not finite although it must be.
    """
    return convert(plain(record), type(record))


def convert(value: Any, kind: type[T], name: str = "results") -> T:
    """Converts JSON values to a record, strictly.

    Args:
      value: JSON values.
      kind: type of the record.
      name: name of `value` in error messages.

    Raises:
      ValueError: a field is missing or of another type; the message names it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a results file of this program: {_explained(error, value, kind, name)}") from error


def decode(value: Any) -> Results:
    """Converts the JSON values of a `results.json` of any supported version.

    Raises:
      ValueError: a field is missing or of another type, or the version is not supported.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version in MIGRATED_VERSIONS:
        return migrated(value, lambda latest: convert(latest, Results))
    if type(version) is int and version != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, not {SCHEMA_VERSION}")
    if isinstance(value, dict) and type(version) is not int:
        raise ValueError("not a results file of this program: results.schema_version is missing or no number")
    return convert(value, Results)


def read(path: pathlib.Path) -> Results:
    """Reads the results of a run.

    Args:
      path: the `results.json`.

    Raises:
      ConfigError: the file is missing, damaged, or of a version that is not supported.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist: the run is not finished; resume it by ryot --resume={path.parent}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged, it is not JSON: {error}; {_REMEDY}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    readable = (*MIGRATED_VERSIONS, SCHEMA_VERSION)
    if type(version) is int and version not in readable:
        raise ConfigError(
            f"{path} is of version {version}, and this program draws versions {' and '.join(map(str, readable))}; draw "
            "it with the version of ryot_jax that made it (manifest.json names it), or run it again"
        )
    try:
        return decode(value)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}; {_REMEDY}") from error


def refuse_constant(constant: str) -> None:
    """Refuses NaN and infinities, which are not JSON; for `json.loads(parse_constant=...)`.

    Raises:
      ValueError: always.
    """
    raise ValueError(f"{constant} is no number of JSON")


def _explained(error: msgspec.ValidationError, value: Any, kind: Any, name: str) -> str:
    """The error as a sentence that names the field by its path: `results.arms.baseline.steps is float, not int`."""
    found = _AT.search(str(error))
    message, path = _AT.sub("", str(error)), found[1] if found else ""
    if "[...]" in path:
        path = _named(path, value, lambda changed: _refusal(changed, kind))
    where = f"{name}{path}"
    if match := re.fullmatch(r"Object missing required field `(.*)`", message):
        return f"{where}.{match[1]} is missing"
    if match := re.fullmatch(r"Invalid enum value (.*)", message, re.DOTALL):
        allowed = f" is none of {', '.join(get_args(Verdict))}" if path.endswith("verdict") else " is not allowed"
        return f"{name}{path.rpartition('.')[0]}: {path.rpartition('.')[2]} {match[1]}{allowed}"
    if match := re.fullmatch(r"Expected `(.*?)`, got `(.*?)`", message):
        wanted = " or ".join(_TYPES.get(part, part) for part in match[1].split(" | "))
        return f"{where} is {_TYPES.get(match[2], match[2])}, not {wanted}"
    return f"{where}.{message}" if re.match(r"\w+ is ", message) else f"{where}: {message}"


def _refusal(value: Any, kind: Any) -> str | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _named(path: str, value: Any, refusal: Callable[[Any], str | None]) -> str:
    """The path with its first `[...]` replaced by the key at fault: the key whose removal changes the error."""
    before, _, after = path.partition("[...]")
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", before)]
    message = refusal(value)

    def without(node: Any, rest: list[Any], key: str) -> Any:
        if not rest:
            return {name: inner for name, inner in node.items() if name != key}
        changed = dict(node) if isinstance(node, Mapping) else list(node)
        changed[rest[0]] = without(node[rest[0]], rest[1:], key)
        return changed

    mapping = value
    for step in steps:
        mapping = mapping[step]
    key = next((key for key in mapping if refusal(without(value, steps, key)) != message), "[...]")
    return f"{before}.{key}{after}"
