"""JSON from outside as plain data, with one plain reason where it cannot be used.

Python's own reader lets through what falls over later: halves of surrogate pairs, which no file, terminal or tokenizer
takes; structures so deep that whoever walks through them runs out of stack; and other encodings than UTF-8.
"""

import json
import re
from typing import Any

DEEPEST = 100
"""Levels of lists and objects; what moeprobe and transformers write has some ten."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """JSON that cannot be used. The message is a clause that follows the name of the file: ``it is ...``."""


def parse_json(data: bytes | str, *, unique: bool = False, byte_order_mark: bool = False, shallow: bool = False) -> Any:
    """The value that a JSON document holds; NaN and infinities are taken, as Python and transformers do.

    Args:
        data: the document, bytes in UTF-8.
        unique: refuse an object that names a key twice (else the last one counts, as in most readers).
        byte_order_mark: let bytes begin with one, as files that people write may.
        shallow: do not measure the depth: for long documents whose every value is looked at anyway.

    Raises:
        JsonError: it is no JSON in UTF-8, holds a number of more digits than Python reads (4,300), half of a
            surrogate pair, or is nested deeper than ``DEEPEST``.

    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig" if byte_order_mark else "utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 text (byte {error.start})") from error
    try:
        value = json.loads(text, object_pairs_hook=_once if unique else None)
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})") from error
    except RecursionError as error:
        raise JsonError(_too_deep()) from error
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError("it holds a number of more than 4,300 digits") from error
    suspect = _ESCAPED.search(text) is not None or (isinstance(data, str) and _SURROGATE.search(text) is not None)
    if suspect or not shallow:
        _look_through(value, suspect)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise JsonError(f"it names {twice[:200]!r} twice")
    return found


def _look_through(value: Any, suspect: bool) -> None:
    """Refuse what is too deep and, where ``suspect``, halves of surrogate pairs; without recursion."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise JsonError(_too_deep())
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                if suspect:
                    below += one
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif suspect and isinstance(one, str) and (half := _SURROGATE.search(one)):
                raise JsonError(f"it holds \\u{ord(half[0]):04x}, half of a surrogate pair, which is no character")
        level = below if suspect else [one for one in below if isinstance(one, dict | list)]
        depth += 1


def _too_deep() -> str:
    return f"it is nested more than {DEEPEST} levels deep"
