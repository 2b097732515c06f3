"""Text from outside, made harmless: module paths, source labels and messages that may hold anything."""

import re
import unicodedata

_SIMPLE = re.compile(r"[\w./:=+-]+", re.ASCII)
_TO_ENTITY = re.compile(r"[^a-zA-Z0-9 .,/=+-]")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^(?:[#+=-]|\d+(?=[.)]))")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str) -> str:
    """One line without control characters (newlines, terminal escapes, marks that turn the direction)."""
    spaced = re.sub(r"\s+", " ", text)
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSEEN else c for c in spaced)


def inline(text: str) -> str:
    """Escape text for any place in Markdown, table cells and starts of lines included."""
    return _LINE_START.sub(_literal_start, _unmarked(plain(text).strip()))


def code(text: str) -> str:
    """Write a name in code style, safe in table cells.

    A backtick span cannot hold a pipe in a table nor a backtick anywhere, so unusual names are written as an
    HTML element in which every sign is a numeric entity.
    """
    name = plain(text)
    if _SIMPLE.fullmatch(name):
        return f"`{name}`"
    return f"<code>{_TO_ENTITY.sub(lambda match: f'&#{ord(match.group())};', name)}</code>"


def prose(text: str) -> str:
    """Write a sentence of a detector: its `backtick spans` become code, all else is plain text."""
    pieces = plain(text).strip().split("`")
    if len(pieces) % 2 == 0:  # an unpaired backtick belongs to the text
        pieces[-2:] = ["`".join(pieces[-2:])]
    written = [code(piece) if place % 2 else _unmarked(piece) for place, piece in enumerate(pieces)]
    return _LINE_START.sub(_literal_start, "".join(written))


def fence(text: str, language: str = "") -> str:
    """Write a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def _unmarked(text: str) -> str:
    harmless = "".join(_HTML.get(character, character) for character in text)
    unlinked = harmless.replace("://", "&#58;//").replace("www.", "www&#46;")  # no links by themselves
    return _MARKUP.sub(lambda match: "\\" + match.group(), unlinked)


def _literal_start(match: re.Match[str]) -> str:
    sign = match.group()
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"
