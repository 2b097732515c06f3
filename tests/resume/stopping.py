"""Stop an analysis after so many files of its progress."""

from pathlib import Path
from types import ModuleType

import pytest

from moeprobe.resume import snapshot
from tests.commandline import Moeprobe


def stop(moeprobe: Moeprobe, arguments: list[str], writer: ModuleType, writes: int) -> None:
    """Run the command until ``writer``, the module that keeps the progress, wants to write one file more."""
    left = writes

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        snapshot.write_bytes(path, data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "write_bytes", write)
        outcome = moeprobe(*arguments)
    assert outcome.code == 2
    assert "Interrupted" in outcome.sentence


def texts(folder: Path, first: int = 0) -> None:
    """Write twelve texts, without the first ones, to texts.jsonl."""
    lines = [f'{{"text": "Number {i} squared is {i * i}, as anyone sees.", "source": "s{i % 3}"}}' for i in range(12)]
    (folder / "texts.jsonl").write_text("\n".join(lines[first:]) + "\n")
