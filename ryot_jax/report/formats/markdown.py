"""`report.md`: the report of a run for reading and for pasting into a pull request.

A pure function of the results; user-supplied text is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ryot_jax.comparison.schema import Results
from ryot_jax.report import document, plots
from ryot_jax.report.parts import Bullets, Command, Paragraph, Part, Pictures, Section, Table

_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")


def render(results: Results, pictures: Mapping[str, str]) -> str:
    """Renders the report as Markdown.

    Args:
      results: the results of the run.
      pictures: path of each plot relative to the report, by its name in `plots.PLOTS`.
    """
    parts = [f"# {escape(results.name)}: {results.verdict}"]
    for section in document.sections(results):
        parts += _section(section, results, pictures)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: Any) -> str:
    """`text` on one line, with Markdown and HTML markup escaped."""
    line = " ".join(str(text).split())
    line = "".join(c for c in line if c.isprintable())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _section(section: Section, results: Results, pictures: Mapping[str, str]) -> list[str]:
    tables = sum(isinstance(part, Table) for part in section.parts)
    texts = [f"## {section.title}"]
    for part in section.parts:
        # The only table of a section needs no caption.
        if isinstance(part, Table) and tables > 1:
            texts.append(f"**{escape(part.caption)}**")
        texts.append(_part(part, results, pictures))
    return texts


def _part(part: Part, results: Results, pictures: Mapping[str, str]) -> str:
    match part:
        case Paragraph(text):
            return escape(text)
        case Bullets(items):
            return "\n".join(f"* {escape(item)}" for item in items)
        case Table():
            return _table(part)
        case Pictures(names):
            drawn = [name for name in names if name in pictures]
            return "\n\n".join(f"![{escape(plots.PLOTS[n].describe(results))}]({pictures[n]})" for n in drawn)
        case Command(text):
            return f"    {text}"


def _table(table: Table) -> str:
    rule = ["---", *["---:" if table.numeric else "---"] * (len(table.header) - 1)]
    header, *rows = ([escape(cell) for cell in row] for row in (table.header, *table.rows))
    return "\n".join(_line(cells) for cells in (header, rule, *rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
