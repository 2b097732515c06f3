"""The command line, called as the console script calls it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moeprobe.cli import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The refusal, which must be a single line and no traceback."""
        assert "Traceback" not in self.err
        (line,) = self.err.strip().splitlines()
        assert line.startswith("moeprobe: ")
        return line


Moeprobe = Callable[..., Outcome]


@pytest.fixture
def moeprobe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Moeprobe:
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Outcome:
        capsys.readouterr()  # what the test itself caused, such as the progress of save_pretrained
        monkeypatch.setattr(sys, "argv", ["moeprobe", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run()
        out, err = capsys.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return call
