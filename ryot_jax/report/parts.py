"""The parts of a report: sections of paragraphs, lists, tables, pictures and commands, as plain text.

`document` fills them; `formats.markdown` and `formats.html` lay them out.
"""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """One or more sentences."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of independent sentences."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    Attributes:
      caption: title of the table.
      header: title of each column.
      rows: cells of each row, one per column; the first is the row's title.
      numeric: whether the columns after the first are numbers, which are right-aligned.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Plots side by side, by their names in `plots.PLOTS`; plots without data are left out."""

    kind: ClassVar[str] = "pictures"
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Command:
    """A line for the shell."""

    kind: ClassVar[str] = "command"
    text: str


Part = Paragraph | Bullets | Table | Pictures | Command


def sentence_or_none(text: str | None) -> Paragraph | None:
    """The text as a paragraph; None for None."""
    return None if text is None else Paragraph(text)


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Attributes:
      id: identifier within the document: letters and dashes.
      title: heading.
      parts: content in order.
    """

    id: str
    title: str
    parts: tuple[Part, ...]
