"""Runs the command line again and again, each time in a child that kill -9 ends at a given point.

    python -m tests.resume.driver POINTS COMMAND...

``POINTS`` is JSON, one entry a child: ``["before", n]``, ``["half", n]`` and ``["after", n]`` mean the n-th time that
progress is written (before it, with the new file beside the old one, after it), ``["time", s]`` s seconds after the
first write. The command runs once more at the end, to its end. Printed is how each child ended. The driver forks
before torch has run anything, so that children need not import again.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch
import transformers.models.mixtral.modeling_mixtral  # noqa: F401

import moeprobe.pipeline  # noqa: F401
from moeprobe.cli import run
from moeprobe.records.budget import Budget
from moeprobe.resume import bookmark, by_layer, snapshot


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(kind: str, point: float) -> None:
    """Make this process die at the point."""
    written = 0
    write, replace = snapshot.write_bytes, Path.replace

    def write_and_die(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        here = written == point
        if kind == "before" and here:
            die()
        if kind == "half" and here:
            Path.replace = lambda *_: die()  # type: ignore[assignment, method-assign]
        write(path, data)
        Path.replace = replace  # type: ignore[method-assign]
        if kind == "after" and here:
            die()
        if kind == "time" and written == 1:
            threading.Timer(point, die).start()

    bookmark.write_bytes = by_layer.write_bytes = write_and_die


def child(command: list[str], kind: str, point: float) -> int:
    """How a child ended: the exit code, or minus the signal."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        arrange(kind, point)
        sys.argv = ["moeprobe", *command]
        try:
            run()
        except SystemExit as left:
            sys.stdout.flush()
            os._exit(int(left.code or 0))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    points = json.loads(sys.argv[1])
    if os.environ.get("BY_EXPERT"):  # as little memory would do, in which the texts of the tests would not fit
        Budget.by_expert = lambda *_: True  # type: ignore[method-assign]
    ended = [child(sys.argv[2:], kind, point) for kind, point in [*points, ("never", 0)]]
    print("\nended", json.dumps(ended))
