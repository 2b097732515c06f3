"""Markdown tables by pandas and tabulate, and the folding of long ones."""

import re
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from moeprobe.reporting.escape import plain
from moeprobe.reporting.words import number

_NUMERIC = re.compile(r"\**(?:–|NaN|-?inf|-?[\d.,]+(?:e-?\d+)?)(?: \(.*\))?\**")


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Make a pipe table of escaped cells; columns of numbers stand to the right.

    The columns are those of the first row, in its order. No rows give an empty string.
    """
    if not rows:
        return ""
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(rows[0]), dtype=object)
    sides = ["right" if all(map(_NUMERIC.fullmatch, frame[column])) else "left" for column in frame]
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=sides))


def used_columns(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Drop the columns in which nothing was measured; a row without a column gets a dash in it."""
    columns = dict.fromkeys(column for row in rows for column in row)
    missing = number(None)
    used = [column for column in columns if any(row.get(column, missing) != missing for row in rows)]
    return [{column: row.get(column, missing) for column in used} for row in rows]


def grid(values: Sequence[float | int | None], width: int = 8) -> str:
    """One value an expert, ``width`` experts a row, so that 384 of them stay readable."""
    rows = []
    for start in range(0, len(values), width):
        cells = [number(value) for value in values[start : start + width]]
        cells += [""] * (width - len(cells))
        rows.append({"expert": str(start)} | {f"+{place}": cell for place, cell in enumerate(cells)})
    return table(rows)


def folded(summary: str, body: str) -> str:
    """Fold a part that opens on a click; empty where ``body`` is.

    The blank lines make GitHub read Markdown inside, but never in the summary: that is escaped as HTML.
    """
    return f"<details>\n<summary>{escape(plain(summary))}</summary>\n\n{body}\n\n</details>" if body else ""


def joined(*parts: str) -> str:
    """Paragraphs with a blank line between; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)
