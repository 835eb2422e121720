"""The provenance of a run and its files: config, optimizations, data, machine, versions, files."""

from collections.abc import Mapping
from typing import Any

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Bullets, Command, Paragraph, Part, Table
from ryot_jax.report.words import NOTHING, of_language_model

_REDRAW = (
    Paragraph("This draws the report again, where RUN is the directory that holds results.json:"),
    Command("ryot report --run=RUN"),
)


def config_differences(results: Results) -> Table | None:
    """Table of the config fields in which the arms differ; None if there are none."""
    rows = tuple((d.field, d.baseline, d.optimized) for d in results.config_differences)
    return Table("Config fields that differ", ("field", "baseline", "optimized"), rows) if rows else None


def optimizations(results: Results) -> Table | None:
    """Table of the optimizations, their promise, and the proof that they are on; None if the results name none."""
    rows = tuple(
        (
            o.name,
            o.implementation,
            "on" if o.active else "off",
            o.equivalence,
            o.evidence or o.reason,
        )
        for o in results.optimizations
    )
    header = ("optimization", "implementation", "state", "promises", "evidence from the compiled program")
    return Table("Optimizations", header, rows) if rows else None


def artifacts(results: Results) -> Table | None:
    """Table of the files of the run, by path within the run directory; None if the results name none."""
    rows = tuple((name, str(path)) for name, path in results.artifacts.items())
    return Table("Files within the run directory", ("artifact", "path"), rows) if rows else None


def facts(results: Results) -> Table:
    """Table of data, hashes and manifest, one field per row."""
    rows = [(f"data: {key}", value) for key, value in _flat(results.data)]
    rows += [
        ("initial weights sha256", results.initial_params_hash),
        ("batches sha256", results.batches_hash or NOTHING),
        *_flat(results.manifest),
    ]
    return Table("Data, machine and versions", ("field", "value"), tuple(rows))


def config_section(results: Results) -> list[Part | None]:
    """The section on the differences of the arms in config and optimizations."""
    differ = config_differences(results)
    if results.comparison is None:
        why = "There is one arm: nothing differs."
    elif of_language_model(results):
        why = "The arms differ in no field of the config."
    else:
        why = "There is no config: the arms are two step functions that were brought."
    return [differ or Paragraph(why), optimizations(results)]


def manifest_section(results: Results) -> list[Part | None]:
    """The section with warnings, data, machine and versions."""
    warnings = results.warnings
    return [
        Bullets(tuple(warnings)) if warnings else Paragraph("No warnings."),
        facts(results),
        *(_REDRAW if of_language_model(results) else ()),
    ]


def artifacts_section(results: Results) -> list[Part | None]:
    """The section with the files of the run."""
    return [artifacts(results) or Paragraph("The results name no files.")]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _cell(value)))
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
