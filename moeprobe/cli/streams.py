"""Standard output and standard error: what cannot be said there must not look like an answer.

Python ends with 120 or a traceback, and click with 1, where a pipe was closed or a disk is full; here it is 2.
"""

import os
import sys
from contextlib import suppress
from traceback import walk_tb
from typing import TextIO

import click

_NAMES = {"stdout": "standard output", "stderr": "standard error"}


def prepare() -> str | None:
    """Make both streams take any character; the sentence that refuses to run if one of them is closed.

    A file that is opened next would get the number of a closed stream, and whatever a library says would be written
    into that file. So the numbers are taken first.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in _NAMES:
        stream = getattr(sys, name)
        if stream is None:
            return f"The {_NAMES[name]} is closed, so nothing could be said there; redirect it to /dev/null instead."
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
    return None


def unsaid(error: BaseException) -> str | None:
    """The sentence for an error that came up while something was printed, None for any other one."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code is click.echo.__code__ and isinstance(error, OSError):
            name = "stderr" if frame.f_locals.get("err") else "stdout"
            _drop(getattr(sys, name))
            return _sentence(name, error)
    return None


def undelivered() -> str | None:
    """The sentence for what was printed and did not arrive, None where everything did; to be called at the end."""
    sentence = None
    for name in _NAMES:
        stream = getattr(sys, name)
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            sentence = sentence or _sentence(name, error)
            _drop(stream)
    return sentence


def complain(sentence: str) -> None:
    """Say a sentence on standard error, if it is there to hear it."""
    if sys.stderr is None:
        return
    try:
        click.echo(sentence, err=True)
    except (OSError, ValueError):
        _drop(sys.stderr)


def _sentence(name: str, error: Exception) -> str:
    why = getattr(error, "strerror", None) or "it was closed"
    return f"Cannot write to the {_NAMES[name]} ({why}), so the answer did not arrive; send it where it is read."


def _drop(stream: TextIO) -> None:
    """Let what is still buffered go nowhere, or Python would fail at it again when it ends."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        stream.flush()
