"""``moeprobe gates`` on trained checkpoints, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from moeprobe.cli.gates import parse_layers
from moeprobe.errors import OptionError
from moeprobe.findings.gates import GateReport
from tests.commandline import Moeprobe

FEW = ("--max-tokens", "1500", "--updates", "60", "--rows", "800")


def test_a_report_with_figures_and_numbers(moeprobe: Moeprobe, bundled: Path) -> None:
    # A bias balances a mixture: the first 1,500 tokens are too few documents.
    outcome = moeprobe("gates", bundled, *FEW[2:], "--max-tokens", "8000", "-o", "out")
    assert outcome.code == 0, outcome.err
    assert "own score function is sqrtsoftplus" in outcome.out
    report = GateReport.model_validate_json(Path("out/gates.json").read_text(encoding="utf-8"))
    hashed = [layer for layer in report.layers if layer.router.kind == "hash"]
    learned = [layer for layer in report.layers if layer.router.kind == "top-k"]
    assert (len(hashed), len(learned)) == (2, 4)
    assert all(layer.rows == 800 and layer.recomputed for layer in report.layers)
    assert all(layer.controller is None and layer.without_controller for layer in hashed)
    for layer in learned:
        assert [one.function for one in layer.alternatives if one.own] == ["sqrtsoftplus"]
        assert layer.controller is not None
        assert layer.controller.by_checkpoint is not None
        assert layer.controller.by_checkpoint < layer.controller.unbiased
    page = Path("out/gates.md").read_text(encoding="utf-8")
    figures = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert len(figures) == 2
    assert all((Path("out") / figure).is_file() for figure in figures)
    assert "a hash table chooses" in page
    assert "{" not in page + outcome.out  # nothing is left unformatted


def test_chosen_layers_of_a_softmax_model(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("gates", checkpoints / "mixtral", *FEW, "--layers", "1-2", "--dtype", "bfloat16")
    assert outcome.code == 0, outcome.err
    report = json.loads(Path("reports/mixtral/gates.json").read_text(encoding="utf-8"))
    assert [layer["router"]["layer"] for layer in report["layers"]] == [1, 2]
    for layer in report["layers"]:
        assert layer["controller"]["function"] == "softmax"
        assert layer["controller"]["by_checkpoint"] is None
    assert "The checkpoint's own bias" not in Path("reports/mixtral/gates.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--layers", "1-"), "must look like 0,3-5"),
        (("--layers", "5-3"), "must look like 0,3-5"),
        (("--layers", "99", *FEW), "No router in layer 99"),
        (("--step", "0"), "must be a positive number"),
        (("--step", "nan"), "must be a positive number"),
        (("--max-tokens", "60"), "the laboratory needs 200"),
        (("--rows", "10"), "--rows"),
        (("--probe", "nowhere.txt"), "nowhere.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refused_in_one_sentence(moeprobe: Moeprobe, checkpoints: Path, arguments: tuple[str, ...], told: str) -> None:
    outcome = moeprobe("gates", checkpoints / "mixtral", *arguments)
    assert outcome.code == 2
    assert told in outcome.sentence
    assert not list(Path().rglob("gates.*"))


def test_layers() -> None:
    assert parse_layers("") == frozenset()
    assert parse_layers("0, 3-5") == {0, 3, 4, 5}
    for wrong in ("a", "-3", "1-2-3", "0-99999999"):
        with pytest.raises(OptionError):
            parse_layers(wrong)
