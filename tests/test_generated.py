"""What is generated is up to date, and what the README says is true."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from moeprobe.cli.group import main
from moeprobe.detectors.registry import DETECTORS
from moeprobe.errors import MoeprobeError
from moeprobe.findings.result import Result
from moeprobe.recipe import recipe_names
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.formats import FORMAT_NAMES
from moeprobe.reporting.markdown import write
from moeprobe.reporting.report import report
from scripts import gates_table
from scripts.gallery import FILES, views
from scripts.gate_systems import SYSTEMS, Claim

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_detector_pages() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_gates_page() -> None:
    hint = "run python scripts/gates_table.py"
    assert (ROOT / "docs/gates.md").read_text(encoding="utf-8") == gates_table.page(), hint


def test_a_claim_that_holds_stops_the_gates_page(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Claim("Mixtral", "Mixtral scores with a softmax", "nothing else", lambda row: row["score"] == "softmax")
    mixtral = next(system for system in SYSTEMS if system.name == "Mixtral")
    monkeypatch.setattr(gates_table, "SYSTEMS", (mixtral,))
    monkeypatch.setattr(gates_table, "CLAIMS", (true,))
    with pytest.raises(ValueError, match="the table says so too"):
        gates_table.page()


@pytest.mark.parametrize("sample", ["healthy", "scale-mismatch"])
def test_gallery(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    folder = ROOT / "reports/gallery" / sample
    result = Result.load(folder / "result.json")
    hint = "run python scripts/gallery.py --formats"
    assert (folder / "report.md").read_text(encoding="utf-8") == write(report(result)), hint
    drawn = {f"{p.name}.svg": p.draw() for p in pictures(result).values()}
    assert {p.name: p.read_text(encoding="utf-8") for p in (folder / "figures").iterdir()} == drawn, hint
    files = {"result.json", "report.md"}
    for file, text in views(result).items():
        assert (folder / file).read_text(encoding="utf-8") == text, hint
        files.add(file)
    assert {p.name for p in folder.iterdir()} == files | {"figures"}


def test_the_gallery_has_every_format() -> None:
    assert set(FILES) | {"json", "markdown"} == set(FORMAT_NAMES)


def test_readme_names_every_command_and_detector() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        assert f"moeprobe {name}" in README or f"scripts/{name}" in README, name
        assert main.get_command(context, name).help
    for detector in DETECTORS:
        assert f"| {detector.code} | [{detector.name}](docs/detectors/{detector.name}.md) |" in README
    for name in recipe_names():
        assert name in README


def test_readme_counts_the_families() -> None:
    page = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    (families,) = re.findall(r"cases of (\d+) families", page)
    assert f"All {families} MoE families" in README


def test_readme_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_error_tree_is_drawn() -> None:
    import moeprobe.errors as errors

    def names(kind: type[Exception]) -> set[str]:
        return {kind.__name__}.union(*(names(sub) for sub in kind.__subclasses__()))

    for name in names(MoeprobeError):
        assert name in (errors.__doc__ or "")
