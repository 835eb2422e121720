"""The parts of a report: sections of paragraphs, lists, tables, pictures and commands, as plain words.

`document` fills them; `markdown` and `html` lay them out.
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
    """Sentences that stand for themselves."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose cells are what is to be read.

    Attributes:
      caption: what the table holds.
      header: title of each column.
      rows: cells, as many in each row as the header has; the first is the row's title.
      numeric: whether the columns behind the first are numbers, which stand to the right.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Plots beside each other, by their names in `plots.PLOTS`; those that have no data are left out."""

    kind: ClassVar[str] = "pictures"
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Command:
    """A line for the shell."""

    kind: ClassVar[str] = "command"
    text: str


Part = Paragraph | Bullets | Table | Pictures | Command


def sentence_or_none(text: str | None) -> Paragraph | None:
    """The text as a paragraph, or nothing."""
    return None if text is None else Paragraph(text)


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Attributes:
      id: of the section within the document: letters and dashes.
      title: its heading.
      parts: what it holds, in order.
    """

    id: str
    title: str
    parts: tuple[Part, ...]
