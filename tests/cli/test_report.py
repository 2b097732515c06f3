"""`moeprobe report`: a saved result in another format, and one sentence for what cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moeprobe.findings.result import Result
from moeprobe.reporting.formats import FORMAT_NAMES, render
from tests.commandline import Moeprobe
from tests.reporting import bad, samples


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return samples.sick().save(tmp_path / "run/result.json")


@pytest.fixture(autouse=True)
def no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_format_to_standard_output(moeprobe: Moeprobe, saved: Path, name: str) -> None:
    outcome = moeprobe("report", saved, "--format", name)
    assert outcome.code == 0, outcome.err
    assert outcome.out == render(Result.load(saved), name)
    assert outcome.err == ""


def test_a_folder_and_no_format(moeprobe: Moeprobe, saved: Path) -> None:
    assert moeprobe("report", saved.parent).out.startswith("4 problems (2 errors, 2 warnings)")


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("a/b.html", "<!doctype html>"), ("b.sarif", "{"), ("b.xml", "<?xml"), ("b.md", "# Routing"), ("b", "4 prob"),
        ("b.json", "{"),
    ],
)  # fmt: skip
def test_the_ending_of_the_file_names_the_format(moeprobe: Moeprobe, saved: Path, file: str, start: str) -> None:
    outcome = moeprobe("report", saved, "-o", file)
    assert (outcome.code, outcome.out) == (0, "")
    assert Path(file).read_text(encoding="utf-8").startswith(start)


def test_numbers_that_are_none_and_hostile_names(moeprobe: Moeprobe, tmp_path: Path) -> None:
    for build in (bad.nonfinite, bad.hostile):
        saved = build().save(tmp_path / "result.json")
        for name in ("text", "junit", "sarif", "github", "markdown"):
            outcome = moeprobe("report", saved, "--format", name)
            assert outcome.code == 0, outcome.err
            assert "\x1b" not in outcome.out


def test_the_summary_of_a_step(
    moeprobe: Moeprobe, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert moeprobe("report", saved, "--format", "github").code == 0
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("# Routing of `moe-sample`")


def cut(text: str) -> str:
    return text[: len(text) // 2]


def older(text: str) -> str:
    return json.dumps(json.loads(text) | {"schema_version": 0})


@pytest.mark.parametrize("spoil", [cut, older, lambda _: "[1]", lambda _: '"x"', lambda _: "", lambda _: "{}"])
def test_what_is_no_result_is_refused(moeprobe: Moeprobe, saved: Path, spoil: object) -> None:
    saved.write_text(spoil(saved.read_text(encoding="utf-8")), encoding="utf-8")  # type: ignore[operator]
    outcome = moeprobe("report", saved)
    assert outcome.code == 2
    assert "result" in outcome.sentence
    assert "moeprobe analyze" in outcome.sentence


def test_what_cannot_be_read_or_written_is_refused(moeprobe: Moeprobe, saved: Path, tmp_path: Path) -> None:
    assert "No such file" in moeprobe("report", "nowhere").sentence
    assert "result.json" in moeprobe("report", tmp_path).sentence
    assert "is a folder" in moeprobe("report", saved, "-o", tmp_path).sentence
    assert "is the result itself" in moeprobe("report", saved, "--format", "html", "-o", saved).sentence
    (tmp_path / "file").write_text("")
    outcome = moeprobe("report", saved, "-o", tmp_path / "file" / "x.html")
    assert outcome.code == 2
    assert "Cannot write" in outcome.sentence
    assert moeprobe("report", saved, "--format", "pdf").code == 2
    assert Result.load(saved) == samples.sick()


def test_it_imports_no_torch(saved: Path) -> None:
    program = (
        "import sys\nfrom moeprobe.cli import run\n"
        f"sys.argv = ['moeprobe', 'report', {str(saved)!r}, '--format', 'html']\n"
        "try:\n    run()\nexcept SystemExit as left:\n    assert not left.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
