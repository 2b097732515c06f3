"""The router-only backward pass, beside the one of transformers' own routers."""

import pytest
import torch
import transformers as hf
from torch import nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HashRouter, DeepseekV4TopKRouter

from moeprobe.experiments.gradient import GradientTest, router_backward
from moeprobe.findings.evidence import Backward
from moeprobe.records.record import Record
from moeprobe.records.recorder import record
from tests.families import build

HIDDEN, EXPERTS, TOKENS, LOW = 32, 8, 12, 5
EDGES = {torch.float32: -102.8735, torch.bfloat16: -93.0, torch.float16: -17.34375}


def config() -> hf.DeepseekV4Config:
    return hf.DeepseekV4Config(
        vocab_size=64, hidden_size=HIDDEN, num_hidden_layers=3, n_routed_experts=EXPERTS, num_experts_per_tok=2
    )


def alone(kind: str, dtype: torch.dtype, logit: float) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """One router and its arguments; expert LOW has ``logit`` on every odd token, and is not chosen there."""
    torch.manual_seed(0)
    if kind == "sigmoid":
        v3 = hf.DeepseekV3Config(
            hidden_size=HIDDEN, n_routed_experts=EXPERTS, num_experts_per_tok=2, n_group=1, topk_group=1
        )
        router: nn.Module = DeepseekV3TopkRouter(v3)
    else:
        router = DeepseekV4HashRouter(config()) if kind == "hash" else DeepseekV4TopKRouter(config())
    inputs = torch.randn(1, TOKENS, HIDDEN)
    inputs[..., 0] = torch.arange(TOKENS) % 2
    with torch.no_grad():
        router.weight.normal_(std=0.2)
        router.weight[LOW] = 0
        router.weight[LOW, 0] = logit
        if kind == "hash":
            others = [expert for expert in range(EXPERTS) if expert != LOW]
            router.tid2eid.copy_(torch.tensor(others)[torch.rand(64, EXPERTS - 1).argsort(dim=-1)[:, :2]])
    ids = (1 + torch.arange(TOKENS)[None],) if kind == "hash" else ()
    return router.to(dtype), (inputs.to(dtype), *ids)


def recorded(router: nn.Module, args: tuple[torch.Tensor, ...]) -> Record:
    with record(router, keep_inputs=True) as recording, torch.no_grad():
        router(*args)
    return recording.records[0]


def theirs(router: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and input by a real backward pass through transformers' module, slot weights as ours."""
    inputs = args[0].clone().requires_grad_()
    router.zero_grad()
    weights = next(
        out for out in router(inputs, *args[1:]) if out.is_floating_point() and out.shape[-1] == 2 and out.requires_grad
    )
    slope = torch.linspace(0.5, 1.5, 2, dtype=weights.dtype)
    (weights * slope).sum().backward()
    return router.weight.grad, inputs.grad.reshape(-1, HIDDEN)


@pytest.mark.parametrize("kind", ["top-k", "hash"])
@pytest.mark.parametrize("dtype", EDGES)
@pytest.mark.parametrize("beyond", [0.95, 1.02])
def test_it_agrees_with_transformers_row_by_row(kind: str, dtype: torch.dtype, beyond: float) -> None:
    router, args = alone(kind, dtype, EDGES[dtype] * beyond)
    seen = recorded(router, args)
    assert torch.isfinite(seen.weights).all()
    gate, inputs = router_backward(seen)
    real_gate, real_inputs = theirs(router, args)
    assert torch.equal(gate.isfinite().all(dim=-1), real_gate.isfinite().all(dim=-1))
    assert torch.equal(gate.isfinite(), real_gate.isfinite())
    assert torch.equal(inputs.isfinite(), real_inputs.isfinite())
    assert bool(gate[LOW].isfinite().all()) == (beyond < 1)
    scaled = gate[gate.isfinite()].float() * router.routed_scaling_factor
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    assert torch.allclose(scaled, real_gate[real_gate.isfinite()].float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["top-k", "hash"])
@pytest.mark.parametrize("dtype", EDGES)
def test_three_answers(kind: str, dtype: torch.dtype) -> None:
    for beyond, expected in ((0.95, Backward()), (1.02, Backward(tokens=6, nonfinite=7 * HIDDEN, experts=[LOW]))):
        test = GradientTest()
        seen = recorded(*alone(kind, dtype, EDGES[dtype] * beyond))
        test.update(seen)
        assert test.found == {seen.router.path: expected}
    blind = GradientTest()
    blind.update(seen.__class__(**{**vars(seen), "inputs": None}))
    assert blind.found == {}


def test_a_sigmoid_that_underflows_has_a_finite_gradient() -> None:
    router, args = alone("sigmoid", torch.float32, -120.0)
    test, seen = GradientTest(), recorded(router, args)
    assert seen.router.score_function == "sigmoid"
    test.update(seen)
    assert test.found == {seen.router.path: Backward(tokens=6)}


def test_records_add_up() -> None:
    test = GradientTest()
    for logit in (-120.0, -60.0, -120.0):
        test.update(recorded(*alone("top-k", torch.float32, logit)))
    (found,) = test.found.values()
    assert found == Backward(tokens=12, nonfinite=14 * HIDDEN, experts=[LOW])


def test_in_a_model() -> None:
    """DeepSeek-V4 with one expert below the edge, never chosen: the forward pass is finite, the gradient NaN."""
    model = build("deepseek_v4")
    gate, ids = model.model.layers[2].mlp.gate, torch.full((1, 12), 7)
    with record(model, keep_inputs=True) as recording, torch.no_grad():
        model(input_ids=ids)
        mean = recording.records[-1].inputs.mean(dim=0)
        gate.weight[LOW] = -200 * mean / mean.square().sum()
        recording.records.clear()
        model(input_ids=ids)
    test = GradientTest()
    for one in recording.records:
        test.update(one)
        assert torch.isfinite(one.weights).all()
    found = {path: tried.experts for path, tried in test.found.items()}
    assert found == {f"model.layers.{layer}.mlp.gate": [LOW] if layer == 2 else [] for layer in range(3)}
