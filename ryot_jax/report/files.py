"""Writes the report's files beside `results.json`."""

import pathlib

from ryot_jax.comparison.schema import Results
from ryot_jax.report import plots
from ryot_jax.report.formats import html, markdown
from ryot_jax.runtime.files import write_text


def write(directory: pathlib.Path, results: Results) -> list[pathlib.Path]:
    """Draws the plots and writes `report.html` and `report.md` into `directory`; returns the paths of all its files.

    Args:
      directory: an existing folder, the run directory.
      results: the results of the run.
    """
    drawn = plots.draw(results)
    page, text = directory / "report.html", directory / "report.md"
    write_text(page, html.render(results, drawn))
    pictures = {name: plot.save(directory) for name, plot in drawn.items()}
    write_text(text, markdown.render(results, pictures))
    return [page, text, *(directory / name for name in pictures.values())]
