"""The summary that a finished run prints: the verdict in words, then the numbers, then the criteria.

Plain ASCII, or tables drawn with lines on terminals that can show them.
"""

import dataclasses
import io
import textwrap

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ryot_jax.comparison.schema import Results
from ryot_jax.report import document
from ryot_jax.report.formats.grid import grid
from ryot_jax.report.parts import Table as Rows
from ryot_jax.report.topics import arms, controls, verdict
from ryot_jax.runtime import console
from ryot_jax.runtime.console import printable


def render(results: Results, *, fancy: bool = False, width: int = 100) -> str:
    """Renders the summary as text that ends in a newline.

    Args:
      results: the results of the run.
      fancy: whether to draw tables with lines, for UTF-8 terminals; otherwise the text is pure ASCII.
      width: largest number of columns.
    """
    wanted = [arms.deltas(results), _controls(results), verdict.criteria(results)]
    parts = [_wrapped(verdict.headline(results), width)]
    parts += [(_drawn if fancy else grid)(table, width) for table in wanted if table is not None]
    parts.append("\n".join(_wrapped(sentence, width, "  ") for sentence in document.findings(results)))
    parts += [_wrapped(f"warning: {warning}", width) for warning in results.warnings]
    text = "\n\n".join(parts) + "\n"
    return text if fancy else text.encode("ascii", "replace").decode("ascii")


def show(results: Results, to: console.Console) -> None:
    """Prints the summary in the form that suits the console."""
    fancy = to.display is not None
    width = min(to.display.width, 120) if to.display is not None else 100
    for line in render(results, fancy=fancy, width=width).splitlines():
        to.line(line)


def _controls(results: Results) -> Rows | None:
    """The table of controls without the column of procedures, for which a terminal is too narrow."""
    table = controls.table(results)
    if table is None:
        return None
    narrow = dataclasses.replace(table, header=(table.header[0], *table.header[2:]))
    return dataclasses.replace(narrow, rows=tuple((row[0], *row[2:]) for row in table.rows))


def _drawn(rows: Rows, width: int) -> str:
    """A table drawn by `rich` without colours, as the text also goes to the log."""
    table = Table(box=rich.box.ROUNDED)
    for index, title in enumerate(rows.header):
        table.add_column(Text(printable(title)), justify="right" if index and rows.numeric else "left")
    for row in rows.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    canvas = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with canvas.capture() as capture:
        canvas.print(table)
    return capture.get().rstrip("\n")


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(printable(text), width, subsequent_indent=indent)
