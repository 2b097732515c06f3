"""Facts of the routers of every family, against what the configs of tests/families.py say."""

import pytest
import torch

import moeprobe
from moeprobe.findings.router import Router
from moeprobe.routers.find import layer_of
from moeprobe.routers.weights import gate_weights
from tests.families import FAMILIES, build
from tests.records.test_truth import batch

EXPECTED = {
    "mixtral": ("softmax", True, 1.0, None),
    "qwen2_moe": ("softmax", False, 1.0, None),
    "qwen3_moe": ("softmax", True, 1.0, None),
    "deepseek_v2": ("softmax", False, 1.5, None),
    "deepseek_v3": ("sigmoid", True, 2.5, "e_score_correction_bias"),
    "deepseek_v4": ("sqrtsoftplus", True, 1.5, "e_score_correction_bias"),
    "olmoe": ("softmax", False, 1.0, None),
    "gpt_oss": ("softmax", True, 1.0, None),
}


def facts(family: str, dtype: torch.dtype = torch.float32) -> list[Router]:
    model = build(family, dtype)
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    return recording.routers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_measured_rule(family: str, dtype: torch.dtype) -> None:
    function, renormalised, factor, bias = EXPECTED[family]
    for router in facts(family, dtype):
        assert router.score_function == function
        assert router.renormalised == renormalised
        assert router.scaling_factor == pytest.approx(factor, rel=1e-5 if dtype == torch.float32 else 5e-3)
        assert router.output_factor == 1
        assert (router.experts, router.top_k) == (8, 2)
        if router.kind == "top-k":
            assert (router.selection_bias and router.selection_bias.name) == bias
            assert router.selection_agreement == 1


def test_groups_shared_experts_and_hash_layers() -> None:
    v3 = facts("deepseek_v3")[0]
    assert v3.groups is not None
    assert (v3.groups.count, v3.groups.kept, v3.groups.score, v3.groups.fill) == (4, 2, "top2-sum", "-inf")
    assert v3.shared_experts == "shared_experts"
    qwen = facts("qwen2_moe")[0]
    assert (qwen.shared_experts, qwen.shared_gate) == ("shared_expert", True)
    v4 = facts("deepseek_v4")
    assert [r.kind for r in v4] == ["hash", "top-k", "top-k"]
    assert [r.origin for r in v4] == ["found", "declared", "declared"]
    assert facts("mixtral")[0].shared_experts is None
    oss = facts("gpt_oss")[0]
    assert oss.selection_bias is None
    assert oss.logit_bias is not None
    assert oss.logit_bias.name == "bias"


def test_arithmetic_is_observed() -> None:
    v4 = facts("deepseek_v4", torch.bfloat16)[-1].arithmetic
    assert v4 is not None
    assert (v4.product, v4.score, v4.selection, v4.weights) == ("bfloat16", "bfloat16", "float32", "bfloat16")
    v3 = facts("deepseek_v3", torch.bfloat16)[-1].arithmetic
    assert v3 is not None
    assert {v3.product, v3.score, v3.selection, v3.weights} == {"float32"}


def test_logit_bound_holds_for_any_input() -> None:
    """Cauchy-Schwarz behind the norm: no input may exceed it, and one input reaches it."""
    model = build("mixtral")
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    gate = recording.gates[0]
    bound = gate_weights(gate, 120).logit_bound
    norm = model.model.layers[0].post_attention_layernorm
    with torch.no_grad():
        wild = gate.logits(norm(torch.randn(500, 32) * torch.logspace(-3, 3, 500).unsqueeze(1)))
        worst = gate.logits(norm((gate.weight[3] * norm.weight).unsqueeze(0) * 1e3))
    assert bool((wild.abs() <= torch.tensor(bound) * (1 + 1e-5)).all())
    assert float(worst[0, 3]) == pytest.approx(bound[3], rel=1e-4)


def test_layer_of() -> None:
    assert layer_of("model.layers.12.mlp.gate") == 12
    assert layer_of("layers.3.ffn.gate.bias") == 3
    assert layer_of("transformer.blocks.7.ffn.router") == 7
    assert layer_of("gate") is None


def test_a_relative_explains_a_router_whose_numbers_show_nothing() -> None:
    model = build("deepseek_v3")
    with torch.no_grad():
        model.model.layers[2].mlp.gate.weight.fill_(float("nan"))
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    broken = recording.routers[1]
    assert (broken.score_function, broken.renormalised, broken.fit_error) == ("sigmoid", True, None)


def test_weights_that_accelerate_keeps_elsewhere() -> None:
    from accelerate import cpu_offload

    model = build("deepseek_v3")
    cpu_offload(model, execution_device="cpu")
    assert model.model.layers[1].mlp.gate.weight.device.type == "meta"
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    plain = facts("deepseek_v3")
    assert [r.model_dump() for r in recording.routers] == [r.model_dump() for r in plain]
    assert recording.gates[0].weight is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_tiny_selection_bias_is_not_taken_for_a_logit_bias(dtype: torch.dtype) -> None:
    model = build("deepseek_v4", dtype)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        for layer in (1, 2):
            bias = model.model.layers[layer].mlp.gate.e_score_correction_bias
            bias.copy_(torch.randn(8, generator=generator) * 1e-6)
        with moeprobe.record(model) as recording, torch.no_grad():
            model(**batch())
        assert all(r.logit_bias is None for r in recording.routers)
        assert all(r.selection_bias is not None for r in recording.routers if r.kind == "top-k")
