"""Markdown as GitHub reads it: how each block and each marked text is written."""

import re
from functools import singledispatch
from html import escape

from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.document import (
    Block,
    Bullets,
    Document,
    Figure,
    Folded,
    Heading,
    Listing,
    Paragraph,
    Table,
    without_figures,
)
from moeprobe.reporting.report import report
from moeprobe.reporting.text import Piece, bare, lines, pieces

_SIMPLE = re.compile(r"[\w./:=+-]+", re.ASCII)
_TO_ENTITY = re.compile(r"[^a-zA-Z0-9 .,/=+-]")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^(?:[#+=-]|\d+(?=[.)]))")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def render(result: Result, judged: Verdict | None = None) -> str:
    """Write the report without its figures, which are files of their own; their tables are in it."""
    return write(without_figures(report(result, judged)))


def write(document: Document) -> str:
    """Write blocks as Markdown; a figure is a reference to ``figures/<name>.svg``."""
    return "\n\n".join(_written(block) for block in document) + "\n"


def text(marked: str) -> str:
    """Escape a marked text for any place but the start of a line."""
    return "".join(_styled(piece) for piece in pieces(marked))


def line(marked: str) -> str:
    """Escape a marked text that begins a line."""
    return _LINE_START.sub(_literal_start, text(marked))


def fence(listing: str, language: str = "") -> str:
    """Write a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", listing)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{lines(listing)}\n{ticks}"


@singledispatch
def _written(block: Block) -> str:
    raise TypeError(f"no Markdown for {type(block).__name__}")


@_written.register
def _(block: Heading) -> str:
    return f"{'#' * block.level} {text(block.text)}"


@_written.register
def _(block: Paragraph) -> str:
    return line(block.text)


@_written.register
def _(block: Bullets) -> str:
    return "\n".join(f"- {line(item)}" for item in block.items)


@_written.register
def _(block: Table) -> str:
    import pandas as pd

    cells = [[text(cell) for cell in row] for row in block.rows]
    frame = pd.DataFrame(cells, columns=[text(column) for column in block.columns], dtype=object)
    sides = ["right" if numeric else "left" for numeric in block.numeric]
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=sides))


@_written.register
def _(block: Figure) -> str:
    return f"![{text(bare(block.picture.alt))}](figures/{block.picture.name}.svg)"


@_written.register
def _(block: Listing) -> str:
    return fence(block.text, block.language)


@_written.register
def _(block: Folded) -> str:
    # The blank lines make GitHub read Markdown inside, but never in the summary: that is escaped as HTML.
    body = write(block.body)
    return f"<details>\n<summary>{escape(bare(block.summary))}</summary>\n\n{body}\n</details>"


def _styled(piece: Piece) -> str:
    written = _name(piece.text) if piece.name else _unmarked(piece.text)
    return f"**{written}**" if piece.strong else written


def _name(name: str) -> str:
    """Write a name in code style, safe in table cells.

    A backtick span cannot hold a pipe in a table nor a backtick anywhere, so unusual names are written as an
    HTML element in which every sign is a numeric entity.
    """
    if _SIMPLE.fullmatch(name):
        return f"`{name}`"
    return f"<code>{_TO_ENTITY.sub(lambda match: f'&#{ord(match.group())};', name)}</code>"


def _unmarked(words: str) -> str:
    harmless = "".join(_HTML.get(character, character) for character in words)
    unlinked = harmless.replace("://", "&#58;//").replace("www.", "www&#46;")  # no links by themselves
    return _MARKUP.sub(lambda match: "\\" + match.group(), unlinked)


def _literal_start(match: re.Match[str]) -> str:
    sign = match.group()
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"
