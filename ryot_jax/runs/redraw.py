"""`ryot report`: the report of a finished run, redrawn from its `results.json` alone."""

import json
from pathlib import Path

from msgspec.structs import replace

from ryot_jax.comparison.attribution import Attribution
from ryot_jax.comparison.results import convert, read, write
from ryot_jax.comparison.results.file import refuse_constant
from ryot_jax.comparison.schema import Results
from ryot_jax.config import differences, load
from ryot_jax.report import files
from ryot_jax.report.formats import terminal
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS, ConfigError
from ryot_jax.runtime.run_directory import RunDirectory


def redraw(run: Path, attribution: Path | None, console: Console) -> int:
    """Writes `report.html`, `report.md` and its plots, and prints the summary; returns 0 whatever the verdict.

    Args:
      run: a run directory.
      attribution: a run of `ryot ablate` to merge into the results; None: the results do not change.
      console: receives the summary.

    Raises:
      ConfigError: the run has no results yet, its `results.json` is damaged or of another version, the attribution is
        missing or of another model or other optimizations, or the report cannot be written.
    """
    path = RunDirectory(run).results
    results = read(path)
    if attribution is not None:
        results = replace(results, attribution=_attribution(run, attribution))
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
        raise ConfigError(f"{path} cannot be drawn ({error!r}): it is damaged; restore the file") from error
    terminal.show(results, console)
    console.line()
    for report in written[:2]:
        console.line(f"report: {report}")
    return EXIT_PASS


# The config fields that determine the step time, in which a run and its attribution must agree.
_STEP_FIELDS = ("model.", "optimizations.", "training.batch_size", "training.seq_len", "training.accumulation")


def _attribution(run: Path, ablated: Path) -> Attribution:
    """Reads the outcome of `ryot ablate` for a run with the same training step."""
    path = ablated / "attribution.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)["attribution"]
        effects = convert(value, Attribution, "attribution")
    except FileNotFoundError as error:
        raise ConfigError(f"--attribution={ablated}: there is no {path.name}; is it a run of ryot ablate?") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}); run ryot ablate again") from error
    configs = [load(str(RunDirectory(folder).config)) for folder in (run, ablated)]
    other = {name: pair for name, pair in differences(*configs).items() if name.startswith(_STEP_FIELDS)}
    if other:
        words = "; ".join(f"{name}: {mine!r} here, {theirs!r} there" for name, (mine, theirs) in other.items())
        raise ConfigError(f"--attribution={ablated} is of another step than {run}: {words}")
    return effects


def measured_before(path: Path) -> Results | None:
    """A run's results; None if there are none yet, or they are damaged and will be rewritten."""
    try:
        return read(path)
    except ConfigError:
        return None
