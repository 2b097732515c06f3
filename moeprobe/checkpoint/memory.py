"""Memory: how much there is, how sizes are written, and how freed blocks go back to the system."""

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

import psutil

from moeprobe.errors import OptionError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)
_MOST = 2.0**63  # bytes that an address can count
_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files of both versions of Linux' control groups, and the entry for pages of files that make room when asked."""
_CONTROL = Path("/sys/fs/cgroup")
_MALLOC = {-8: 1, -3: 2**25, -1: 2**28}
"""Settings of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD (more is refused), M_TRIM_THRESHOLD."""
_KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_KERNELS_OF_A_THREAD = "LRU_CACHE_CAPACITY"
"""How many matrix products of different shapes oneDNN, and torch for every thread, keep; read at the first one."""
_FEW_BATCHES = 2


def parse_size(text: str) -> int:
    """``8GB``, ``500 MB`` or ``7.5GiB`` in bytes.

    Raises:
        OptionError: it is not a size.

    """
    found = _SIZE.fullmatch(text)
    size = 0.0 if found is None else float(found[1]) * _UNITS[found[2].upper()]
    if not 1 <= size < _MOST:
        raise OptionError(f"{text[:80]!r} is not an amount of memory; write it as 8GB or 500MiB.")
    return int(size)


def format_size(size: float) -> str:
    """Bytes as ``5.1 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 1000 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} bytes"


def free_memory() -> int:
    """Bytes that this process can still take: what the system has, or what its control group leaves it."""
    free = int(psutil.virtual_memory().available)
    for limit, used, details, reclaimable in _CONTROL_GROUPS:
        with suppress(OSError, ValueError):
            table = dict(line.split() for line in (_CONTROL / details).read_text().splitlines())
            taken = int((_CONTROL / used).read_text()) - int(table.get(reclaimable, 0))
            free = min(free, int((_CONTROL / limit).read_text()) - taken)
    return max(free, 0)


def steady_memory() -> None:
    """Keep the process from holding memory that it no longer uses; to be called before a stream is opened.

    glibc's threshold for blocks with a mapping of their own moves up by itself, after which freed weights stay in a
    heap that torch's aligned requests do not fit into again: gigabytes, measured. So it is fixed, where only large
    weights are above it; what a forward pass makes and frees stays in the heap from batch to batch, whose pages the
    system would else have to clear again each time (a fifth of the processor time), and goes back when a layer is left
    (``trim_heap``). All threads share that one heap, since only one runs at a time.
    """
    with suppress(AttributeError, OSError, TypeError):
        for setting, value in _MALLOC.items():
            ctypes.CDLL(None).mallopt(setting, value)


def keep_kernels(batches: int) -> None:
    """Say how many matrix products to keep; to be called before the first forward pass.

    oneDNN makes code for every shape, and each expert takes another number of rows. To make it takes longer than a
    small product (128 experts of 256 neurons: half the time of 8 batches), to keep it about 1 MB: worth it where
    many batches come by, while a single one would only fill the memory.
    """
    os.environ.setdefault(_KERNELS_OF_A_THREAD, "16")
    os.environ.setdefault(_KERNELS, "256" if batches > _FEW_BATCHES else "16")


def trim_heap() -> None:
    """Make glibc give back what many freed smaller blocks left in its heap."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
