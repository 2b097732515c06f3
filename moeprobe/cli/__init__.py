"""The command line. Nothing is imported here, so that even a failing import ends with a sentence and exit 2."""

import os
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Entry point of the command ``moeprobe``: exits with 0, 1 (findings, and nothing else) or 2."""
    try:
        from moeprobe.cli.entry import call

        code = call()
    except BaseException as error:
        _unable(error)
    sys.exit(code)


def _unable(error: BaseException) -> NoReturn:
    """Too little memory, or a broken installation; nothing of moeprobe can be used to say so."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    sentence = f"moeprobe: It cannot run ({why}); give it more memory (ulimit -v), or install it again.\n"
    try:
        os.write(2, sentence.encode(errors="backslashreplace"))
    except OSError:
        pass
    finally:
        os._exit(2)
