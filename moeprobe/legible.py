"""Legible: names from the file system and the command line as text that can be written.

Python keeps the bytes of a name that is not UTF-8 as halves of surrogate pairs. They open the file again, but no JSON,
HTML or XML takes them: a result that holds one could not be saved when all its work is done.
"""

import re

_HALF = re.compile(r"[\ud800-\udfff]")


def legible(text: str) -> str:
    r"""Text as it is, with every half of a surrogate pair written out: ``\xff`` for a byte, else ``\ud800``."""
    return _HALF.sub(lambda found: _spelled(ord(found[0])), text)


def is_legible(text: str) -> bool:
    """Whether text can be written as it is."""
    return _HALF.search(text) is None


def _spelled(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
