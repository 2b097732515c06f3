"""The demo: clean without a fault, and with one planted it names that fault, at its layer, and nothing else."""

import re
from pathlib import Path

import pytest

from moeprobe.demo.catalogue import FAULTS
from moeprobe.findings.result import Result
from tests.commandline import Moeprobe


def test_healthy_is_clean(moeprobe: Moeprobe) -> None:
    outcome = moeprobe("demo")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    result = Result.load("reports/demo/result.json")
    assert not result.problems
    assert result.count("failed") == 0
    assert result.count("clean") >= 20
    report = Path("reports/demo/report.md").read_text()
    assert "**No problems in 6 routers;" in report
    assert "Report: reports/demo/report.md" in outcome.out


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named_at_its_layer(moeprobe: Moeprobe, fault: str) -> None:
    outcome = moeprobe("demo", "--fault", fault)
    assert outcome.code == 0, outcome.err
    planted = re.search(r"Planted: layer (\d+)", outcome.out)
    assert planted is not None
    result = Result.load(f"reports/demo-{fault}/result.json")
    roots = [(f.detector, f.layer, f.severity) for f in result.problems if f.follows is None]
    assert roots == [(fault, int(planted.group(1)), "error")]


def test_an_unknown_fault_is_refused(moeprobe: Moeprobe) -> None:
    outcome = moeprobe("demo", "--fault", "rust")
    assert outcome.code == 2
    assert "rust" in outcome.sentence


def test_the_bundled_checkpoint_is_not_touched(bundled: Path, tmp_path: Path) -> None:
    from moeprobe.demo.faults import plant

    before = {file.name: file.read_bytes() for file in bundled.iterdir()}
    plant("bias-runaway", bundled, tmp_path / "copy", layer=3)
    assert {file.name: file.read_bytes() for file in bundled.iterdir()} == before
