"""Experiments: the numbers are right, and the model is left as it was."""

import math

import pytest
import torch

from moeprobe.experiments.gradient import GradientTest
from moeprobe.experiments.loss import document_losses
from moeprobe.experiments.scale import GRID, scale_curve, standing_out
from moeprobe.probes.batches import Batch
from moeprobe.records.recorder import record
from moeprobe.routers.find import find_sites
from tests.families import build


def batches(rows: int = 6, length: int = 20) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for start in range(0, rows, 2):
        ids = torch.randint(3, 120, (2, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 5 :] = 0
        counted = mask.bool()
        counted[:, 0] = False
        made.append(Batch(ids, mask, counted, [start, start + 1], ["a", "b"]))
    return made


def test_loss_is_that_of_the_model() -> None:
    model = build("mixtral")
    found = document_losses(model, batches(), 6)
    batch = batches()[0]
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids[:1], use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], batch.input_ids[0, 1:], reduction="sum")
    assert float(found.nats[0]) == pytest.approx(float(expected), rel=1e-5)
    assert found.tokens.tolist() == [19, 14] * 3


@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_oss", "deepseek_v4"])
def test_scale_curve_leaves_the_model_bit_identical(family: str) -> None:
    model = build(family)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    baseline = document_losses(model, batches(), 6)
    curve = scale_curve(model, find_sites(model), batches(), ["a", "b"] * 3, None, baseline)
    assert len(curve.points) >= len(GRID)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(document_losses(model, batches(), 6).nats, baseline.nats)
    assert not any(m._forward_hooks for m in model.modules())


def test_scale_curve_equals_scaled_weights() -> None:
    model = build("qwen2_moe")
    sites = find_sites(model)
    baseline = document_losses(model, batches(), 6)
    curve = scale_curve(model, sites[:1], batches(), ["a", "b"] * 3, sites[0].path, baseline)
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj.mul_(GRID[-1])
    again = document_losses(model, batches(), 6).mean
    loss = {point.multiplier: point.loss for point in curve.points}
    assert loss[GRID[-1]] == pytest.approx(again, rel=1e-5)


def test_standing_out() -> None:
    ratios = {"a": 1.0, "b": 1.2, "c": 20.0, "d": 0.9, "e": 0.1}
    assert standing_out(ratios, 2) == ["c", "e"]
    assert standing_out(ratios, 1) == ["c"]
    assert standing_out({"a": 1.0, "b": 2.0}, 4) == []
    assert standing_out({"a": 1.0, "b": 1.0, "c": 0.0}, 4) == ["c"]


def shifted(logit: float) -> GradientTest:
    """DeepSeek-V4 with one expert whose logit is near ``logit`` on every token, never chosen."""
    model = build("deepseek_v4")
    test = GradientTest()
    gate = model.model.layers[2].mlp.gate
    with record(model, keep_inputs=True) as recording, torch.no_grad():
        model(input_ids=torch.full((1, 12), 7))
        mean = recording.records[-1].inputs.mean(dim=0)
        gate.weight[5] = logit * mean / mean.square().sum()
        recording.records.clear()
        model(input_ids=torch.full((1, 12), 7))
    for one in recording.records:
        test.update(one)
        assert torch.isfinite(one.weights).all()
    return test


def test_an_unselected_expert_below_the_edge_makes_the_gradient_nan() -> None:
    """Forward finite, gradient NaN: the zero gradient of an unselected score times infinity (SCIENCE B0)."""
    assert shifted(-200).nonfinite["model.layers.2.mlp.gate"] > 0


def test_above_the_edge_nothing_is_tried() -> None:
    assert shifted(-60).nonfinite == {}


def test_standard_error_needs_two_documents() -> None:
    model = build("mixtral")
    one = [Batch(*(t[:1] for t in (b.input_ids, b.attention_mask, b.counted)), [0], ["a"]) for b in batches()[:1]]
    baseline = document_losses(model, one, 1)
    curve = scale_curve(model, find_sites(model), one, ["a"], None, baseline)
    assert curve.standard_error == math.inf or curve.gain == 0
