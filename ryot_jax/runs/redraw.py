"""Results of finished runs: reading them back, and drawing their report again from `results.json` alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ryot_jax.comparison.results import write
from ryot_jax.comparison.schema import SCHEMA_VERSION, validate_results
from ryot_jax.config import differences, load
from ryot_jax.report import files, terminal
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS, ConfigError
from ryot_jax.runtime.run_directory import RunDirectory


def redraw(run: Path, attribution: Path | None, console: Console) -> int:
    """Writes `report.html`, `report.md` and its plots, prints the summary, and returns 0 whatever the verdict.

    Args:
      run: a run directory.
      attribution: a run of `ryot ablate` whose outcome becomes part of the results; None: they stay as they are.
      console: shows the summary.

    Raises:
      ConfigError: the run has no results yet, its `results.json` is damaged or of another version, the attribution is
        missing or of another model or other optimizations, or the report cannot be written there.
    """
    path = RunDirectory(run).results
    results = read(path)
    if attribution is not None:
        results = {**results, "attribution": _attribution(run, attribution)}
    try:
        if attribution is not None:
            write(path, results)
        written = files.write(run, results)
    except OSError as error:
        raise ConfigError(
            f"--run={run}: the report cannot be written there: {error.strerror}; make the directory writable, "
            "or copy results.json and config.json to another"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise ConfigError(f"{path} cannot be drawn ({error!r}): it is damaged; {_REMEDY}") from error
    terminal.show(results, console)
    console.line()
    for report in written[:2]:
        console.line(f"report: {report}")
    return EXIT_PASS


# What decides how long a step takes, and so what an attribution is of.
_OF_THE_STEP = ("model.", "optimizations.", "training.batch_size", "training.seq_len", "training.accumulation")


def _attribution(run: Path, ablated: Path) -> Any:
    """The outcome of `ryot ablate`, for a run with the same step."""
    path = ablated / "attribution.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)["attribution"]
    except FileNotFoundError as error:
        raise ConfigError(f"--attribution={ablated}: there is no {path.name}; is it a run of ryot ablate?") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}); run ryot ablate again") from error
    configs = [load(str(RunDirectory(folder).config)) for folder in (run, ablated)]
    other = {name: pair for name, pair in differences(*configs).items() if name.startswith(_OF_THE_STEP)}
    if other:
        words = "; ".join(f"{name}: {mine!r} here, {theirs!r} there" for name, (mine, theirs) in other.items())
        raise ConfigError(f"--attribution={ablated} is of another step than {run}: {words}")
    return found


_REMEDY = "restore the file, or go on with the run (ryot --resume=RUN), which writes it anew"


def read(path: Path) -> Mapping[str, Any]:
    """The results of a run.

    Args:
      path: a `results.json`.

    Raises:
      ConfigError: there is none, it is damaged, or it is of another version.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist: the run is not finished; go on with it by ryot --resume={path.parent}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged, it is not JSON: {error}; {_REMEDY}") from error
    version = results.get("schema_version") if isinstance(results, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} is of version {version}, and this program draws version {SCHEMA_VERSION}; draw it with the "
            "version of ryot_jax that made it (manifest.json names it), or run it again"
        )
    try:
        validate_results(results)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}; {_REMEDY}") from error
    return results


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def measured_before(path: Path, field: str) -> Mapping[str, Any] | None:
    """A field of a run's results; None: there are none yet, or they are damaged and will be written anew."""
    try:
        value: Mapping[str, Any] | None = read(path).get(field)
    except ConfigError:
        return None
    return value
