"""Shortage: whether an error means that there is too little memory, whoever raises it and in whichever words."""

from errno import ENOMEM

_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not allocate",
    "unable to allocate",
    "failed to allocate",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)
_KERNEL = "could not create a primitive"
"""All that oneDNN says when it cannot get memory for its code."""
_FURTHEST = 20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one that led to it, says so; libraries wrap it in errors of other kinds."""
    one: BaseException | None = error
    for _ in range(_FURTHEST):
        if one is None:
            return False
        if isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError":
            return True
        if isinstance(one, OSError) and one.errno == ENOMEM:
            return True
        said = str(one).lower().strip()
        if any(words in said for words in _WORDS) or said == _KERNEL:
            return True
        one = one.__cause__ or one.__context__
    return False
