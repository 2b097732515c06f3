"""Experiments: the numbers are right, and the model is left as it was."""

import math

import pytest
import torch

from moeprobe.experiments import scale
from moeprobe.experiments.loss import DocumentLosses, document_losses
from moeprobe.experiments.scale import GRID, farthest, multiplied, scale_curve
from moeprobe.findings.evidence import ScaleCurve
from moeprobe.probes.batches import Batch
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
    curve = scale_curve(model, sites[:1], batches(), ["a", "b"] * 3, None, baseline)
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj.mul_(GRID[-1])
    again = document_losses(model, batches(), 6).mean
    loss = {point.multiplier: point.loss for point in curve.points}
    assert loss[GRID[-1]] == pytest.approx(again, rel=1e-5)


def test_the_oddest_sizes_come_first() -> None:
    ratios = {"a": 1.0, "b": 1.2, "c": 20.0, "d": 0.9, "e": 0.1}
    assert farthest(ratios, 2) == ["c", "e"]
    assert set(farthest(ratios, 8)) == set(ratios)
    assert farthest({"a": 1.0, "b": 1.0, "c": 0.0}, 1) == ["c"]
    assert farthest({"a": 2.0}, 4) == ["a"]
    assert farthest({}, 4) == []


@pytest.mark.parametrize("factor", [20.0, 0.05])
def test_a_planted_factor_is_found_and_a_sound_layer_costs_two_passes(factor: float) -> None:
    """A random model has no best size, so the loss is a parabola with its least at 1 / factor."""
    model, best = build("mixtral"), 1 / factor
    site, ticks = find_sites(model)[0], []

    def losses(multiplier: float) -> DocumentLosses:
        nats = torch.full((6,), 40 + math.log(multiplier / best) ** 2, dtype=torch.float64)
        return DocumentLosses(nats, torch.full((6,), 10))

    def curve(at: float) -> ScaleCurve:
        nonlocal best
        best = at
        ticks.clear()

        def measured(*_args: object) -> DocumentLosses:
            ticks.append(1)
            (hook,) = site.experts._forward_hooks.values()
            return losses(float(hook(site.experts, (), torch.ones(()))))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scale, "document_losses", measured)
            return scale_curve(model, [site], [], ["a"] * 6, site.path, losses(1.0))

    wrong = curve(1 / factor)
    assert wrong.best == pytest.approx(1 / factor, rel=0.03)
    assert wrong.interior
    assert len(ticks) == len(wrong.points) - 1 <= 20
    sound = curve(1.1)
    assert sound.best == pytest.approx(1.1, rel=0.03)
    assert len(ticks) == 2


def test_hooks_come_off_after_an_exception() -> None:
    model = build("mixtral")
    with pytest.raises(RuntimeError), multiplied(find_sites(model), 2.0):
        raise RuntimeError
    assert not any(m._forward_hooks for m in model.modules())


def test_standard_error_needs_two_documents() -> None:
    model = build("mixtral")
    one = [Batch(*(t[:1] for t in (b.input_ids, b.attention_mask, b.counted)), [0], ["a"]) for b in batches()[:1]]
    baseline = document_losses(model, one, 1)
    curve = scale_curve(model, find_sites(model), one, ["a"], None, baseline)
    assert curve.standard_error == math.inf or curve.gain == 0
