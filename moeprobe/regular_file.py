"""Files from outside, read whole: regular files of a bounded size and nothing else.

A pipe would make the analysis wait for ever, a device has no end, and either may look like a file to a name in a
config. What is refused is an OSError whose ``strerror`` says why, as that of any other file that cannot be read.
"""

import os
import stat
from errno import EFBIG, EINVAL, EISDIR
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PART = 1 << 24
LONGEST_NAME = 255
"""Bytes of a file's name on every common file system."""


def read_regular(path: str | os.PathLike[str], most: int = 1 << 30) -> bytes:
    """All bytes of a regular file.

    Args:
        path: symbolic links are followed.
        most: bytes that a file of this kind can have at all.

    Raises:
        OSError: there is none, it is a folder, a pipe, a socket or a device, it is larger, or it may not be read.

    """
    refuse_irregular(path)
    # Not to wait, should it have become a pipe since.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _refuse_mode(os.fstat(handle).st_mode, path)
        content = bytearray()
        # Not by its size, which files of /proc do not tell.
        while part := os.read(handle, _PART):
            content += part
            if len(content) > most:
                raise OSError(
                    EFBIG, f"it holds more than {most:,} bytes, which no such file needs; cut it down", str(path)
                )
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(handle)
    return bytes(content)


def refuse_irregular(path: str | os.PathLike[str]) -> None:
    """Do nothing for a regular file.

    Raises:
        OSError: there is none, or it is something else.

    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(EINVAL, "its name holds a character that no file name can hold", str(path)) from error
    _refuse_mode(mode, path)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file that may be looked at; false for names that no file can have."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _refuse_mode(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(EISDIR, "it is a folder; give a file", str(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    raise OSError(EINVAL, f"it is {kind}, and only regular files are read; save its content as a file", str(path))
