"""A forward pass that fails is what a broken checkpoint does: what the weights show is still reported."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeprobe.findings.result import Result
from tests.commandline import Moeprobe


def damaged(source: Path, target: Path, suffix: str, value: int) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    name = sorted(n for n in tensors if n.endswith(suffix))[-1]
    tensors[name].view(-1)[:4096] = value
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def test_hash_table_out_of_range(moeprobe: Moeprobe, bundled: Path, tmp_path: Path) -> None:
    folder = damaged(bundled, tmp_path / "model", "tid2eid", 16)
    outcome = moeprobe("analyze", folder, "-o", "out", "--max-tokens", 2000)
    assert outcome.code == 2
    assert "forward pass fails" in outcome.sentence
    assert "Only what the weights show was judged" in outcome.sentence
    assert "Report: " in outcome.out
    result = Result.load("out/result.json")
    (root,) = [f for f in result.problems if f.follows is None]
    assert (root.detector, root.layer, root.severity) == ("hash-boundary", 1, "error")
    assert "forward pass fails" in result.not_checked[-1].why
    assert all(r.activations is None for r in result.evidence.routers)
    assert all(c.verdict != "clean" for c in result.checks if c.detector == "sqrt-nan")


def test_nothing_found_in_the_weights_is_not_clean(moeprobe: Moeprobe, checkpoints: Path, monkeypatch) -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("a kernel that does not exist")

    monkeypatch.setattr(MixtralExperts, "forward", fail)
    outcome = moeprobe("analyze", checkpoints / "mixtral", "--max-tokens", 2000)
    assert outcome.code == 2
    assert "a kernel that does not exist" in outcome.sentence
    assert "What was not checked" in Path("reports/mixtral/report.md").read_text()
    judged = moeprobe("check", checkpoints / "mixtral", "--max-tokens", 2000)
    assert (judged.code, "COULD NOT CHECK" in judged.out) == (2, True)


@pytest.mark.parametrize("error", [ZeroDivisionError, AssertionError, ImportError, KeyError])
def test_whatever_the_forward_pass_raises_is_told(
    moeprobe: Moeprobe, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts

    def fail(*_: object) -> torch.Tensor:
        raise error("it was never so")

    folder = damaged(bundled, tmp_path / "model", "tid2eid", 16)
    monkeypatch.setattr(DeepseekV4Experts, "forward", fail)
    outcome = moeprobe("analyze", folder, "-o", "out", "--max-tokens", 2000)
    assert outcome.code == 2
    assert "forward pass fails" in outcome.sentence
    assert Path("out/report.md").exists()
    assert not Path("out/.progress").exists()
    assert moeprobe("check", folder, "--max-tokens", 2000).code == 1


def test_routers_says_it_too(moeprobe: Moeprobe, bundled: Path, tmp_path: Path) -> None:
    outcome = moeprobe("routers", damaged(bundled, tmp_path / "model", "tid2eid", 16))
    assert outcome.code == 2
    assert "forward pass fails" in outcome.sentence
    assert "Not verified" in outcome.out
