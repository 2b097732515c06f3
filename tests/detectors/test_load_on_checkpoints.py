"""The load detectors on trained checkpoints, healthy and with one expert cut off."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import moeprobe
from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.detectors import tensor_sizes
from moeprobe.findings.result import Result
from moeprobe.pipeline import analyze
from moeprobe.probes.texts import load_documents
from moeprobe.routers.find import find_sites
from moeprobe.routers.gate import Gate

NAMES = ("tiny-deepseek-v4", "deepseek_v3", "mixtral", "qwen2_moe", "qwen3_moe")
LOAD = ("dead-experts", "overloaded-experts")
TOKENS, EXPERT = 16_384, 5


def folder(name: str, checkpoints: Path, bundled: Path) -> Path:
    return bundled if name == NAMES[0] else checkpoints / name


def cut_off(source: Path, layer: int, cut: Callable[[Gate, torch.Tensor], None], documents: int = 1) -> Result:
    """Analyse a checkpoint with ``cut`` applied to one router, given its gate and inputs [tokens, hidden]."""
    checkpoint = open_checkpoint(source)
    model, tokenizer = load_model(checkpoint).model, load_tokenizer(checkpoint)
    with moeprobe.record(model, keep_inputs=True) as recording, torch.no_grad():
        for document in load_documents("builtin")[:documents]:
            ids = tokenizer(document.text, truncation=True, max_length=512)["input_ids"]
            model(input_ids=torch.tensor([ids]), use_cache=False)
        records = [r for r in recording.records if r.router.layer == layer]
        cut(records[0].gate, torch.cat([r.inputs for r in records]).float())
    return analyze(model, tokenizer=tokenizer, recipe="quick", max_tokens=2 * TOKENS)


def against_its_input(gate: Gate, inputs: torch.Tensor) -> None:
    """Least squares towards -10 on every token, then steps against those on which the expert still wins."""
    others = [e for e in range(gate.router.experts) if e != EXPERT]
    needed = (inputs @ gate.weight[others].float().T).topk(gate.router.top_k).values[:, -1] - 2
    row = torch.linalg.lstsq(inputs, torch.full((len(inputs), 1), -10.0)).solution[:, 0]
    for _ in range(500):
        wins = inputs @ row > needed
        if not wins.any():
            break
        row -= 0.1 * inputs[wins].mean(dim=0)
    gate.weight[EXPERT] = row.to(gate.weight.dtype)


def low_bias(gate: Gate, _inputs: torch.Tensor) -> None:
    gate.selection_bias[EXPERT] = -10


def high_bias(gate: Gate, _inputs: torch.Tensor) -> None:
    gate.selection_bias[EXPERT] = 10


@pytest.mark.parametrize("name", NAMES)
def test_healthy_checkpoints_have_no_dead_and_no_overloaded_experts(
    name: str, checkpoints: Path, bundled: Path
) -> None:
    result = analyze(folder(name, checkpoints, bundled), recipe="quick", max_tokens=TOKENS, select=LOAD)
    assert result.findings == []
    assert {check.verdict for check in result.checks} == {"clean"}
    again = Result.model_validate_json(result.model_dump_json())
    assert again.evidence.routers[0].activations.load.design_effect


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe", "mixtral"])
def test_a_gate_row_turned_against_its_input_is_a_dead_expert_and_nothing_else(
    name: str, checkpoints: Path, bundled: Path
) -> None:
    result = cut_off(folder(name, checkpoints, bundled), 2, against_its_input, documents=56)
    assert [(f.severity, f.layer, f.experts) for f in result.problems] == [("warning", 2, [EXPERT])]
    dead = [f for f in result.findings if f.detector == "dead-experts"]
    # The row that it takes may be so long that its length is the root.
    by_length = result.problems[0].cause == tensor_sizes.ROWS
    assert [(f.experts, f.follows is not None) for f in dead] == [([EXPERT], by_length)]


@pytest.mark.parametrize(("bias", "follower"), [(low_bias, LOAD[0]), (high_bias, LOAD[1])], ids=["low", "high"])
@pytest.mark.parametrize("name", [NAMES[0], "deepseek_v3"], ids=["ungrouped", "grouped"])
def test_a_runaway_bias_is_one_problem(
    name: str, bias: Callable, follower: str, checkpoints: Path, bundled: Path
) -> None:
    result = cut_off(folder(name, checkpoints, bundled), 3, bias)
    (problem,) = result.problems
    assert (problem.detector, problem.severity, problem.layer, problem.experts) == (
        "bias-runaway",
        "error",
        3,
        [EXPERT],
    )
    (found,) = [finding for finding in result.findings if finding.detector in LOAD]
    assert (found.detector, found.severity, found.follows, found.experts) == (
        follower,
        "info",
        problem.router,
        [EXPERT],
    )


def favoured(model: nn.Module, layer: int, share: float) -> None:
    """Two experts of a layer that this share of the tokens uses each, whatever the gate says."""
    site = next(one for one in find_sites(model) if one.layer == layer)
    forward = site.router.forward

    def changed(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        logits, weights, experts = forward(*args, **kwargs)
        draw = torch.rand(experts.shape, generator=torch.Generator().manual_seed(0))
        turns = torch.arange(len(experts)).unsqueeze(1) + torch.arange(experts.shape[1])
        others = 2 + turns % (logits.shape[-1] - 2)
        favourite = (torch.arange(experts.shape[1]) < 2) & (draw < share)
        experts = torch.where(favourite, torch.arange(experts.shape[1]), others)
        return logits, weights, experts

    site.router.forward = changed  # type: ignore[method-assign]


@pytest.mark.parametrize(("share", "fires"), [(0.88, True), (0.7, False)])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_two_experts_with_most_of_the_tokens_each(
    name: str, seed: int, share: float, fires: bool, checkpoints: Path, bundled: Path
) -> None:
    checkpoint = open_checkpoint(folder(name, checkpoints, bundled))
    model, tokenizer = load_model(checkpoint).model, load_tokenizer(checkpoint)
    layer = random.Random(seed).choice([site.layer for site in find_sites(model)])
    favoured(model, layer, share)
    result = analyze(model, tokenizer=tokenizer, recipe="quick", max_tokens=TOKENS, select=["overloaded-experts"])
    found = [f for f in result.problems if {0, 1} <= set(f.experts)]
    assert [(f.layer, f.severity) for f in found] == [(layer, "warning")] * fires


def test_a_fine_tune_at_the_edge_against_its_base(checkpoints: Path, bundled: Path) -> None:
    """With --baseline, what the base nearly had and what hardly grew is known."""
    results = []
    for share in (0.865, 0.885):
        checkpoint = open_checkpoint(folder("qwen3_moe", checkpoints, bundled))
        model, tokenizer = load_model(checkpoint).model, load_tokenizer(checkpoint)
        favoured(model, 1, share)
        before = results[0] if results else None
        bar = {"overloaded-experts": {"overload_odds": 17.5}}
        options = {"recipe": "quick", "max_tokens": TOKENS, "select": LOAD, "limits": bar, "baseline": before}
        results.append(analyze(model, tokenizer=tokenizer, **options))
    base, tuned = results
    assert [f for f in base.problems if 0 in f.experts] == []
    (found,) = [f for f in tuned.problems if 0 in f.experts]
    assert "The baseline nearly had this" in found.message
    assert found.fingerprint in tuned.baseline.known
