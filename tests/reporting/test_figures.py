"""Files of a report: written in order, whole, the same at every run, and small."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moeprobe.errors import OutputError
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.quantities import EVIDENCE, QUANTITIES
from moeprobe.reporting.write import check_writable, write_report
from tests.detectors.drifted import drifted, drifted_table
from tests.reporting import samples

EVERY = {
    "healthy": ["load", "maxvio", "depth", "bias", "magnitudes", "scale"],
    "sick": ["finding-1", "finding-2", "finding-3", "load", "maxvio", "depth", "bias", "magnitudes", "scale"],
    "large": ["finding-1", "load", "maxvio", "depth", "bias", "magnitudes", "scale"],
    "weights_only": ["bias"],
    "hostile": ["finding-1", "load", "maxvio", "depth", "bias", "magnitudes", "scale"],
}


@pytest.mark.parametrize("name", EVERY)
def test_a_report_is_complete_and_small(name: str, tmp_path: Path) -> None:
    result: Result = getattr(samples, name)()
    report = write_report(result, tmp_path)
    text = report.read_text(encoding="utf-8")
    referenced = re.findall(r"^!\[(.+)\]\(figures/([\w-]+)\.svg\)$", text, re.MULTILINE)
    assert [figure for _, figure in referenced] == EVERY[name]
    assert all(len(alt) > 30 for alt, _ in referenced)
    assert sorted(path.stem for path in (tmp_path / "figures").iterdir()) == sorted(EVERY[name])
    assert Result.load(tmp_path / "result.json") == result
    for path in (tmp_path / "figures").iterdir():
        assert path.stat().st_size < 300_000, path
        assert "<script" not in path.read_text(encoding="utf-8")
        ElementTree.parse(path)
    assert len(text) < 450_000, "GitHub shows no Markdown above 512 kB"


def test_figures_are_the_same_bytes_at_every_run() -> None:
    once, again = ({name: one.draw() for name, one in pictures(samples.sick()).items()} for _ in range(2))
    assert once == again
    assert not any("dc:date" in drawn for drawn in once.values())


def test_the_numbers_are_saved_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr("moeprobe.reporting.write.pictures", lambda _: {"load": Picture("load", "", fail)})
    with pytest.raises(RuntimeError):
        write_report(samples.healthy(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_pictures_of_earlier_findings_are_removed(tmp_path: Path) -> None:
    write_report(samples.sick(), tmp_path)
    write_report(samples.weights_only(), tmp_path)
    assert not list((tmp_path / "figures").glob("finding-*"))


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_quantity_can_be_read_with_and_without_evidence() -> None:
    whole = [*samples.healthy().evidence.routers, drifted(), drifted_table()]
    bare = RouterEvidence(router=whole[0].router)
    for name, quantity in QUANTITIES.items():
        assert any(quantity.read(one) is not None for one in whole) or name == "logit_bound"
        quantity.value(bare)
    assert QUANTITIES["load_min"].read(bare) is None
    assert set().union(*EVIDENCE.values()) <= set(QUANTITIES)


def test_planning_and_rendering_load_no_matplotlib_and_no_torch() -> None:
    code = (
        "import sys\n"
        "from tests.reporting.samples import sick\n"
        "from moeprobe.reporting.markdown import render\n"
        "render(sick())\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'torch')))\n"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False).returncode == 0
