"""Writes the report's files beside `results.json`."""

import pathlib

from ryot_jax.report import markdown, plots
from ryot_jax.report.summary import Results
from ryot_jax.runtime.files import write_text


def write(directory: pathlib.Path, results: Results) -> list[pathlib.Path]:
    """Draw the plots and write `report.md` into `directory`; returns the paths of all files written.

    Args:
      directory: an existing folder, the run directory.
      results: content of `results.json`.
    """
    drawn = plots.write(directory, results)
    report = directory / "report.md"
    write_text(report, markdown.render(results, drawn))
    return [report, *(directory / name for name in drawn.values())]
