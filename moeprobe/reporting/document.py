"""The blocks of a report. Content is made of them once; Markdown and HTML are two ways to write them.

Every ``str`` in a block is a marked text (see ``text.py``), never Markdown nor HTML.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.text import bare
from moeprobe.reporting.words import number

_NUMERIC = re.compile(r"(?:–|NaN|-?inf|-?[\d.,]+(?:e-?\d+)?)(?: \(.*\))?")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the report."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of one line."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """``columns`` are the headings, ``rows`` have one cell a column, ``numeric`` says which columns hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Figure:
    """A picture in the text."""

    picture: Picture


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is, such as a command or YAML; not marked."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Folded:
    """A part that opens on a click."""

    summary: str
    body: "Document"


Block = Heading | Paragraph | Bullets | Table | Figure | Listing | Folded
Document = tuple[Block, ...]


def joined(*parts: "str | Block | Document") -> Document:
    """Put parts one below the other; a string is a paragraph, and empty parts are left out."""
    made: list[Block] = []
    for part in parts:
        if isinstance(part, str):
            made += [Paragraph(part)] if part else []
        elif isinstance(part, tuple):
            made += part
        else:
            made.append(part)
    return tuple(made)


def bullets(items: Sequence[str]) -> Document:
    """Make a list of the items that are not empty; nothing where none is left."""
    kept = tuple(item for item in items if item)
    return (Bullets(kept),) if kept else ()


def table(rows: Sequence[Mapping[str, str]]) -> Document:
    """Make a table; its columns are those of the first row, in its order. No rows give nothing."""
    if not rows:
        return ()
    columns = tuple(rows[0])
    cells = tuple(tuple(row[column] for column in columns) for row in rows)
    numeric = tuple(all(_NUMERIC.fullmatch(bare(cell)) for cell in column) for column in zip(*cells, strict=True))
    return (Table(columns, cells, numeric),)


def used_columns(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Drop the columns in which nothing was measured; a row without a column gets a dash in it."""
    columns = dict.fromkeys(column for row in rows for column in row)
    missing = number(None)
    used = [column for column in columns if any(row.get(column, missing) != missing for row in rows)]
    return [{column: row.get(column, missing) for column in used} for row in rows]


def grid(values: Sequence[float | int | None], width: int = 8) -> Document:
    """One value an expert, ``width`` experts a row, so that 384 of them stay readable."""
    rows = []
    for start in range(0, len(values), width):
        cells = [number(value) for value in values[start : start + width]]
        cells += [""] * (width - len(cells))
        rows.append({"expert": str(start)} | {f"+{place}": cell for place, cell in enumerate(cells)})
    return table(rows)


def folded(summary: str, body: Document) -> Document:
    """Fold a part; nothing where ``body`` is empty."""
    return (Folded(summary, body),) if body else ()


def with_figures(document: Document, rule: Callable[[Figure], Document]) -> Document:
    """Replace every figure, in folded parts too, by what ``rule`` makes of it."""
    made: list[Block] = []
    for block in document:
        if isinstance(block, Figure):
            made += rule(block)
        elif isinstance(block, Folded):
            made.append(Folded(block.summary, with_figures(block.body, rule)))
        else:
            made.append(block)
    return tuple(made)


def without_figures(document: Document) -> Document:
    """Leave the figures out; their tables stay."""
    return with_figures(document, lambda _: ())
