"""Each reference gate is transformers' own router of that kind, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moeprobe.findings.router import Groups
from moeprobe.gates.capacity import gshard_top2, switch_top1
from moeprobe.gates.decision import Decision
from moeprobe.gates.noisy import noisy_top_k
from moeprobe.gates.scored import biased_sqrtsoftplus, grouped_sigmoid, hash_table, softmax_top_k
from tests.zoo.case import build
from tests.zoo.zoo import ZOO

TOKENS = 60


@pytest.fixture(scope="module")
def model() -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}

    def get(name: str) -> nn.Module:
        if name not in made:
            made[name] = build(next(case for case in ZOO if case.name == name))
        return made[name]

    return get


def router(model: nn.Module, ending: str) -> Any:
    return next(module for module in model.modules() if type(module).__name__.endswith(ending))


def hidden(seed: int = 0, tokens: int = TOKENS) -> Tensor:
    return torch.randn(tokens, 32, generator=torch.Generator().manual_seed(seed))


def same(decision: Decision, weights: Tensor, experts: Tensor) -> None:
    """The same experts in any order, and each with the same weight to the last bit."""
    theirs = torch.zeros_like(decision.scores, dtype=weights.dtype).scatter_(1, experts, weights)
    assert torch.equal(decision.dense().to(weights.dtype), theirs)
    assert torch.equal(decision.experts.sort(dim=-1).values, experts.sort(dim=-1).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "ending", "norm"),
    [
        ("mixtral", "MixtralTopKRouter", True),
        ("qwen3_moe", "TopKRouter", True),
        ("qwen2_moe", "TopKRouter", False),
        ("olmoe", "TopKRouter", False),
    ],
)
def test_softmax(model: Callable[[str], nn.Module], family: str, ending: str, norm: bool, dtype: torch.dtype) -> None:
    theirs = router(model(family), ending).to(dtype)
    with torch.no_grad():
        logits, weights, experts = theirs(hidden().to(dtype))
    theirs.float()
    same(softmax_top_k(logits, 2, renormalise=norm), weights, experts)


@pytest.mark.parametrize("family", ["deepseek_v3", "glm_moe_dsa"])
def test_grouped_sigmoid(model: Callable[[str], nn.Module], family: str) -> None:
    theirs = router(model(family), "TopkRouter")
    with torch.no_grad():
        logits, weights, experts = theirs(hidden())
    groups = Groups(count=theirs.num_group, kept=theirs.topk_group, score="top2-sum", fill="-inf")
    bias = theirs.e_score_correction_bias
    assert bias.abs().max() > 0
    same(grouped_sigmoid(logits, bias, 2, groups=groups, factor=theirs.routed_scaling_factor), weights, experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sqrtsoftplus(model: Callable[[str], nn.Module], dtype: torch.dtype) -> None:
    theirs = router(model("deepseek_v4"), "V4TopKRouter")
    bias, weight = theirs.e_score_correction_bias, theirs.weight.data
    theirs.weight.data = weight.to(dtype)
    with torch.no_grad():
        logits, weights, experts = theirs(hidden().to(dtype))
    theirs.weight.data = weight
    assert logits.dtype is dtype
    same(biased_sqrtsoftplus(logits, bias, 2, factor=theirs.routed_scaling_factor), weights, experts)


def test_hash(model: Callable[[str], nn.Module]) -> None:
    theirs = router(model("deepseek_v4"), "HashRouter")
    ids = torch.randint(0, theirs.tid2eid.shape[0], (TOKENS,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, weights, experts = theirs(hidden(), ids)
    decision = hash_table(logits, ids, theirs.tid2eid, factor=theirs.routed_scaling_factor)
    same(decision, weights, experts)
    assert torch.equal(decision.experts, experts)


def test_switch(model: Callable[[str], nn.Module]) -> None:
    theirs = router(model("switch_transformers"), "Top1Router")
    with torch.no_grad():
        mask, probability, logits = theirs(hidden(tokens=80).reshape(2, 40, 32))
    for row in range(2):
        decision = switch_top1(logits[row], theirs.expert_capacity)
        assert torch.equal(decision.dense() > 0, mask[row] > 0)
        kept = decision.experts[:, 0] >= 0
        assert 0 < int(kept.sum()) < 40
        assert torch.equal(decision.weights[kept], probability[row][kept])


@pytest.mark.parametrize("before", [True, False])
def test_gshard_is_nllb(model: Callable[[str], nn.Module], before: bool) -> None:
    theirs = router(model("nllb_moe"), "Top2Router")
    theirs.normalize_router_prob_before_dropping, was = before, theirs.normalize_router_prob_before_dropping
    with torch.no_grad():
        _mask, weights, logits = theirs(hidden())
    theirs.normalize_router_prob_before_dropping = was
    decision = gshard_top2(logits, theirs.expert_capacity, normalise_before_dropping=before)
    assert torch.equal(decision.dense(), weights)
    assert bool((decision.experts == -1).any())


def test_the_second_expert_is_sampled() -> None:
    logits = hidden()[:, :8]
    never = gshard_top2(logits, TOKENS, uniform=torch.ones(TOKENS))
    sampled = gshard_top2(logits, TOKENS, uniform=torch.full((TOKENS,), 0.5))
    assert bool((never.experts[:, 1] == -1).all())
    second = gshard_top2(logits, TOKENS).weights[:, 1]
    assert torch.equal(sampled.experts[:, 1] >= 0, second > 0.25)


def test_noisy_top_k() -> None:
    """Without noise it is the renormalised softmax; noise of no spread left changes nothing, wide noise does."""
    logits = hidden()[:, :8]
    quiet = noisy_top_k(logits, None, None, 2)
    softmax = softmax_top_k(logits, 2)
    assert torch.equal(quiet.experts, softmax.experts)
    torch.testing.assert_close(quiet.weights, softmax.weights)
    noise = torch.randn(TOKENS, 8, generator=torch.Generator().manual_seed(3))
    none = noisy_top_k(logits, torch.full_like(logits, -200.0), noise, 2)
    assert torch.equal(none.weights, quiet.weights)
    assert not torch.equal(noisy_top_k(logits, torch.full_like(logits, 3.0), noise, 2).experts, quiet.experts)
