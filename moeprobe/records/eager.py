"""Eager: while routing is observed, compiled models run uncompiled.

A compiled graph was traced without the hooks and never calls them: what it did would be missing without a word. The
stance of the compiler is one setting of the whole process, so blocks that overlap (of several threads, too) share it:
the first sets it, and the last puts back what was there.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


class _Shared:
    """How many blocks run now, and what undoes the stance that the first of them has set."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.stance: AbstractContextManager[object] | None = None


_SHARED = _Shared()


@contextmanager
def eagerly() -> Iterator[None]:
    """Within this block compiled modules and functions run as they were written, in every thread."""
    with _SHARED.lock:
        if _SHARED.blocks == 0:
            # Setting it is what making it does; leaving it puts the old stance back.
            _SHARED.stance = torch.compiler.set_stance("force_eager")
        _SHARED.blocks += 1
    try:
        yield
    finally:
        with _SHARED.lock:
            _SHARED.blocks -= 1
            if _SHARED.blocks == 0 and _SHARED.stance is not None:
                _SHARED.stance.__exit__(None, None, None)
                _SHARED.stance = None
