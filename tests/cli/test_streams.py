"""An answer that did not arrive is exit 2, never 0 or 1, and one sentence where anybody can hear it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import Moeprobe

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m moeprobe"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        ["bash", "-c", command.replace("moeprobe", program, 1)],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": path} | environment, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("moeprobe explain >&-", "standard output is closed"),
        ("moeprobe explain 2>&-", None),
        ("moeprobe --help >&- 2>&-", None),
        ("moeprobe explain > /dev/full", "Cannot write to the standard output (No space left"),
        ("moeprobe --help > /dev/full", "Cannot write to the standard output (No space left"),
        ("moeprobe --version > /dev/full", "Cannot write to the standard output (No space left"),
        ("moeprobe analyze --help > /dev/full", "Cannot write to the standard output (No space left"),
        ("moeprobe recipe list > /dev/full", "Cannot write to the standard output (No space left"),
        ("moeprobe no-such-command 2> /dev/full", None),
        ("moeprobe explain > /dev/full 2>&1", None),
        ("moeprobe explain MP999", "MP999"),
        ("moeprobe explain < /dev/full > /dev/full", "standard output"),
        ("moeprobe recipe validate nowhere.yaml 2> /dev/full", None),
    ],
)
def test_full_and_closed_streams(tmp_path: Path, command: str, words: str | None) -> None:
    done = shell(command, tmp_path)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) == (0 if words is None else 1), done.stderr
    assert words is None or words in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["explain"], ["recipe", "schema"]], ids=" ".join)
def test_a_reader_that_has_left(tmp_path: Path, arguments: list[str]) -> None:
    """As in ``| head -1``; click itself would exit with 1."""
    command = [sys.executable, "-m", "moeprobe", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        said = run.stderr.read().decode()
    assert run.returncode == 2
    (line,) = said.splitlines()
    assert line.startswith("moeprobe: Cannot write to the standard output (Broken pipe)")


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = shell(f"rmdir {tmp_path}/gone; moeprobe recipe list", tmp_path / "gone")
    assert done.returncode == 2
    assert "The working directory is gone" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("kilobytes", [20_000, 100_000, 450_000])
def test_too_little_memory_to_begin(tmp_path: Path, bundled: Path, kilobytes: int) -> None:
    """Whatever falls over first (an import, a thread, an allocation): never 0, 1 or a traceback."""
    done = shell(f"ulimit -v {kilobytes}; moeprobe check {bundled} --weights-only", tmp_path)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = done.stderr.splitlines()
    assert line.startswith("moeprobe: ")
    assert "memory" in line
    assert "ulimit -v" in line


def test_foreign_code_does_not_choose_the_exit_code(moeprobe: Moeprobe, monkeypatch: pytest.MonkeyPatch) -> None:
    import moeprobe.detectors.registry as registry

    for ending in (
        SystemExit(0),
        SystemExit(1),
        _Panic("panicked"),
        MemoryError(),
        OSError(28, "No space left"),
        EOFError(),
    ):

        def fall(_: str, ending: BaseException = ending) -> str:
            raise ending

        monkeypatch.setattr(registry, "explain", fall)
        outcome = moeprobe("explain", "MP101")
        assert outcome.code == 2, ending
        assert outcome.sentence


class _Panic(BaseException):
    """As Rust libraries raise them: no ``except Exception`` sees it."""


def test_debugging_is_no_finding(moeprobe: Moeprobe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEPROBE_DEBUG", "1")
    outcome = moeprobe("explain", "nonsense")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
