"""Memory: how much there is, how sizes are written, and how freed blocks go back to the system."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import psutil

from moeprobe.errors import OptionError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_OWN_MAPPING = 4 * 2**20


def parse_size(text: str) -> int:
    """``8GB``, ``500 MB`` or ``7.5GiB`` in bytes.

    Raises:
        OptionError: it is not a size.

    """
    found = _SIZE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise OptionError(f"{text!r} is not an amount of memory; write it as 8GB or 500MiB.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def format_size(size: float) -> str:
    """Bytes as ``5.1 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 1000 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} bytes"


def free_memory() -> int:
    """Bytes that this process can still take: what the system has, or what its control group leaves it."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        used = int((_CONTROL_GROUP / "memory.current").read_text())
        # The page cache counts as used, but makes room when it is needed.
        table = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(table.get("inactive_file", 0)))
    return max(free, 0)


def return_freed_memory() -> None:
    """Make glibc give every freed block of 4 MB and more back at once.

    Its threshold for blocks with a mapping of their own moves up by itself, after which freed weights stay in a heap
    that torch's aligned requests do not fit into again: gigabytes, measured. Elsewhere than on glibc nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _OWN_MAPPING)


def trim_heap() -> None:
    """Make glibc give back what many freed smaller blocks left in its heap."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
