"""Plain-text tables for a terminal."""

import textwrap

from ryot_jax.report.parts import Table as Rows
from ryot_jax.runtime.console import printable


def grid(rows: Rows, width: int) -> str:
    """A plain-text table of at most `width` columns: natural column widths, long cells wrapped."""
    lines = [tuple(map(printable, row)) for row in (rows.header, *rows.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows.header))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    out = []
    for line in lines:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(line, widths, strict=True)]
        for height in range(max(map(len, cells))):
            parts = [cell[height] if height < len(cell) else "" for cell in cells]
            aligned = [
                part.rjust(size) if index and rows.numeric else part.ljust(size)
                for index, (part, size) in enumerate(zip(parts, widths, strict=True))
            ]
            out.append("  ".join(aligned).rstrip())
        if line is lines[0]:
            out.append("  ".join("-" * size for size in widths))
    return "\n".join(out)
