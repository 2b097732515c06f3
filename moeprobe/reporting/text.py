"""Text of a report before it is written in any format: harmless, and marked where it is a name or stands out.

Names, paths, labels and messages come from outside and may hold anything. ``plain`` takes away what acts on a
terminal or is not seen. A *marked text* is a string in which four control characters, which ``plain`` lets through
nowhere, mark names and emphasis; so it can be put together like any string, and knows nothing of Markdown or
HTML. Each format reads it by ``pieces`` and escapes every piece, also those that nobody suspects.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_NAME, _NAME_ENDS, _STRONG, _STRONG_ENDS = "\x0e", "\x0f", "\x02", "\x03"
_MARKS = re.compile(f"([{_NAME}{_NAME_ENDS}{_STRONG}{_STRONG_ENDS}])")
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True)
class Piece:
    """A run of harmless text, not yet escaped for any format. ``name``: in code style."""

    text: str
    name: bool = False
    strong: bool = False


def plain(text: str) -> str:
    """One line without control characters (newlines, terminal escapes, marks that turn the direction)."""
    return _seen(re.sub(r"\s+", " ", text))


def loggable(text: str) -> str:
    """One line for a terminal or a log: GitHub's runner would take ``##[`` anywhere in a log for a command."""
    return plain(text).strip().replace("##[", "# #[")


def lines(text: str) -> str:
    """Keep lines and indents, for what is shown as it is; every other control character is replaced."""
    return "\n".join(_seen(line.expandtabs(4)) for line in text.strip("\n").splitlines())


def code(text: str) -> str:
    """Mark a name: a path, a class, an option."""
    return f"{_NAME}{plain(text)}{_NAME_ENDS}"


def strong(text: str) -> str:
    """Mark what stands out; ``text`` may hold marked names."""
    return f"{_STRONG}{text}{_STRONG_ENDS}"


def prose(text: str) -> str:
    """Mark the `backtick spans` in a sentence of a detector as names."""
    parts = plain(text).strip().split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick belongs to the text
        parts[-2:] = ["`".join(parts[-2:])]
    return "".join(code(part) if place % 2 else part for place, part in enumerate(parts))


def pieces(marked: str) -> Iterator[Piece]:
    """Take a marked text apart."""
    name = is_strong = False
    for part in _MARKS.split(marked):
        if part in (_NAME, _NAME_ENDS):
            name = part == _NAME
        elif part in (_STRONG, _STRONG_ENDS):
            is_strong = part == _STRONG
        elif part:
            yield Piece(plain(part), name, is_strong)


def bare(marked: str) -> str:
    """Drop the marks: for titles, labels and alternative texts, which have no styles."""
    return "".join(piece.text for piece in pieces(marked))


def _seen(text: str) -> str:
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSEEN else c for c in text)
