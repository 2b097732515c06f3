"""Routers that no text reaches, that cannot be read, or whose choice is not what runs: never clean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.mixtral import modeling_mixtral

from moeprobe.findings.result import Result
from tests.commandline import Moeprobe
from tests.zoo.save import save
from tests.zoo.zoo import ZOO

FEW = ("--recipe", "quick", "--max-tokens", "1500", "--output", "json=result.json")
Patch = Callable[[pytest.MonkeyPatch], None]


def never_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def layer(_self: Any, hidden: torch.Tensor, *_args: Any, **_keywords: Any) -> torch.Tensor:
        return hidden

    monkeypatch.setattr(modeling_mixtral.MixtralDecoderLayer, "forward", layer)


def gone_around(monkeypatch: pytest.MonkeyPatch) -> None:
    def block(_self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    monkeypatch.setattr(modeling_mixtral.MixtralSparseMoeBlock, "forward", block)


def not_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router returns logits alone, and no experts module shows what became of them."""

    def gate(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, self.weight)

    def block(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.gate(hidden).mean()

    monkeypatch.setattr(modeling_mixtral.MixtralTopKRouter, "forward", gate)
    monkeypatch.setattr(modeling_mixtral.MixtralSparseMoeBlock, "forward", block)


@pytest.mark.parametrize("patch", [never_reached, gone_around, not_readable])
def test_a_model_whose_routers_were_not_seen_is_not_clean(
    moeprobe: Moeprobe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, patch: Patch
) -> None:
    patch(monkeypatch)
    outcome = moeprobe("check", checkpoints / "mixtral", *FEW)
    assert outcome.code == 2, outcome.out
    assert "COULD NOT CHECK: no router was seen at work on the texts (" in " ".join(outcome.out.split())
    assert Result.load("result.json").count("clean"), "the weights were checked, and that is not enough"


def test_a_model_that_executes_other_experts_fails(moeprobe: Moeprobe, tmp_path: Path) -> None:
    (case,) = [one for one in ZOO if one.name == "nllb_moe"]
    folder = save(case, tmp_path / "nllb")
    outcome = moeprobe("check", folder, *FEW)
    assert outcome.code == 1, outcome.out
    (root,) = [one for one in Result.load("result.json").findings if one.severity == "error"]
    assert (root.detector, root.follows) == ("broken-contract", None)
    assert "went to another expert than the router chose" in root.message
