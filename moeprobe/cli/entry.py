"""From a command line to an exit code: every refusal is one sentence and exit 2, a crash is 2 as well, never 1.

A Python traceback, click's own exceptions and a ``sys.exit`` of foreign code would exit with 1 or 0, which mean
*findings* and *sound* here.
"""

import os
import re
import traceback
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS

import click

from moeprobe.cli.group import main
from moeprobe.cli.streams import complain, prepare, undelivered, unsaid
from moeprobe.errors import EXIT_NOT_CHECKED, MoeprobeError
from moeprobe.reporting.text import loggable
from moeprobe.shortage import is_out_of_memory

_INTERRUPTED = "Interrupted. Nothing that was already written is lost."
_COMPLETION = "_MOEPROBE_COMPLETE"
"""Set by a shell that wants to complete a command line; click answers it and leaves."""
_SYSTEM = re.compile(r"\(os error ([0-9]{1,3})\)")
"""How libraries in Rust tell what the operating system refused."""
_LONG = re.compile(r"\S{400,}")


def call() -> int:
    """Run the command of ``sys.argv``; returns the exit code, and raises nothing."""
    # No backend of matplotlib is used, and one that does not exist would fail when all is measured.
    os.environ.pop("MPLBACKEND", None)
    try:
        code, sentence = _attempt()
        unheard = undelivered()
    except KeyboardInterrupt:
        code, sentence, unheard = EXIT_NOT_CHECKED, _INTERRUPTED, None
    sentence = sentence or unheard
    if sentence is not None:
        _refuse(sentence)
    return code if sentence is None else EXIT_NOT_CHECKED


def _attempt() -> tuple[int, str | None]:
    """The exit code, and the sentence where the command was refused."""
    try:
        if (closed := prepare()) is not None:
            return EXIT_NOT_CHECKED, closed
        code = main.main(prog_name="moeprobe", standalone_mode=False)
        return (code if isinstance(code, int) else 0), None
    except SystemExit as left:
        if _COMPLETION in os.environ and not left.code:
            return 0, None
        return EXIT_NOT_CHECKED, "The command was ended from within (sys.exit) before it had an answer."
    except BaseException as error:
        if os.environ.get("MOEPROBE_DEBUG") and not isinstance(error, click.ClickException):
            complain("".join(traceback.format_exception(error)))
        return EXIT_NOT_CHECKED, _sentence(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, click.ClickException):
        said = error.format_message()
        where = isinstance(error, click.UsageError) and error.ctx is not None
        return f"{said} See `{error.ctx.command_path} --help`." if where else said  # type: ignore[attr-defined]
    if isinstance(error, MoeprobeError):
        return str(error)
    if is_out_of_memory(error):
        return _no_memory(error)
    if (number := _SYSTEM.search(str(error))) is not None and not isinstance(error, OSError):
        return _system(OSError(int(number[1]), os.strerror(int(number[1]))))
    if isinstance(error, OSError):
        return unsaid(error) or _system(error)
    what = " ".join(str(error).split())[:300]
    if isinstance(error, ImportError):
        return f"A package that moeprobe needs cannot be imported ({what}); install moeprobe again, with all it needs."
    return (
        f"moeprobe failed in a way that it does not know ({type(error).__name__}: {what}). "
        "Run again with MOEPROBE_DEBUG=1 for the traceback, and please report it."
    )


def _no_memory(error: BaseException) -> str:
    if isinstance(error, ImportError | OSError):
        return (
            "There is not enough memory to load the libraries that moeprobe needs; raise the limit of this process "
            "(ulimit -v, the container's) or end other programs."
        )
    return (
        "Out of memory. Raise the limit of this process (ulimit -v, the container's), or try --dtype bfloat16, "
        "--device-map auto, --stream, or fewer tokens with --max-tokens."
    )


def _system(error: OSError) -> str:
    """What the operating system refused, where nobody knew more about it."""
    why = error.strerror or str(error) or type(error).__name__
    what = f" {error.filename}" if error.filename else ""
    if error.errno in (ENOSPC, EDQUOT, EFBIG):
        return f"Cannot write{what or ' a file'} ({why}); make room there, or set TMPDIR to a folder that has some."
    if error.errno in (EACCES, EPERM, EROFS):
        return f"No permission for{what or ' a file'} ({why}); check its owner and mode."
    if "temporary directory" in why:
        return f"There is no folder for temporary files that can be written ({why}); set TMPDIR to one that has room."
    return f"Cannot use{what or ' a file'} ({why}); check that path, or give another one."


def _refuse(sentence: str) -> None:
    complain(loggable(f"moeprobe: {_LONG.sub(_shortened, sentence)}"))


def _shortened(found: re.Match[str]) -> str:
    return f"{found[0][:200]}... ({len(found[0]):,} characters)"
