"""The rule is fitted, not recited: for every rule that we can make, the fit must name it."""

import itertools

import pytest
import torch

from moeprobe.findings.router import Declared, Groups
from moeprobe.routers.fit import fit_selection, fit_weights
from moeprobe.routers.rule import choose, same_set, scores, selection_scores

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(400, 16, generator=GENERATOR) * 1.2
RULES = list(itertools.product(("softmax", "sigmoid", "sqrtsoftplus"), (True, False), (1.0, 2.5)))


@pytest.mark.parametrize(("function", "renormalised", "factor"), RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_name_their_rule(function: str, renormalised: bool, factor: float, dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    score = scores(logits, function)
    experts = choose(score, 4)
    weights = score.gather(-1, experts)
    if renormalised:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    fit = fit_weights(logits, experts, weights * factor, dtype, Declared())
    assert fit is not None
    assert (fit.function, fit.renormalised) == (function, renormalised)
    assert fit.factor == pytest.approx(factor, rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_weights_that_no_rule_explains() -> None:
    experts = choose(LOGITS, 4)
    weights = torch.rand(400, 4, generator=GENERATOR)
    assert fit_weights(LOGITS, experts, weights, torch.float32, Declared()) is None


def test_biased_weights_are_not_explained() -> None:
    """The biased score as weight is a known bug (vllm 11971); it must not pass as a rule."""
    score = LOGITS.sigmoid() + torch.linspace(-0.3, 0.3, 16)
    experts = choose(score, 4)
    weights = score.gather(-1, experts)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    assert fit_weights(LOGITS, experts, weights, torch.float32, Declared()) is None


def test_all_nan_has_no_rule() -> None:
    nan = torch.full((10, 16), float("nan"))
    assert fit_weights(nan, torch.zeros(10, 2, dtype=torch.int64), nan[:, :2], torch.float32, Declared()) is None


def test_the_declaration_decides_between_rules_that_explain_equally() -> None:
    """A gate of zeros gives 1/k under any rule."""
    zeros, experts, weights = torch.zeros(50, 16), torch.arange(4).expand(50, 4), torch.full((50, 4), 0.375)
    fit = fit_weights(
        zeros, experts, weights, torch.float32, Declared(score_function="sqrtsoftplus", scaling_factor=1.5)
    )
    assert fit is not None
    assert (fit.function, fit.renormalised) == ("sqrtsoftplus", True)


@pytest.mark.parametrize("rank", ["max", "top2-sum"])
def test_selection_names_bias_and_groups(rank: str) -> None:
    score, bias = LOGITS.sigmoid(), torch.randn(16, generator=GENERATOR) * 0.2
    groups = Groups(count=4, kept=2, score=rank, fill="-inf")
    experts = choose(selection_scores(score, bias, groups), 4)
    fit = fit_selection(score, experts, bias, [(4, 2)])
    assert fit.biased
    assert fit.groups == groups
    assert fit.agreement == 1


def test_selection_without_groups_or_bias_is_the_simplest() -> None:
    score = LOGITS.softmax(dim=-1)
    fit = fit_selection(score, choose(score, 4), torch.zeros(16), [(1, 1)])
    assert (fit.biased, fit.groups, fit.agreement) == (False, None, 1.0)


def test_groups_filled_with_zero_let_masked_experts_win_against_negative_scores() -> None:
    """docs/science.md C1: with a negative bias, a fill of 0 makes the masked groups win."""
    score, bias = LOGITS.sigmoid(), torch.full((16,), -3.0)
    right = choose(selection_scores(score, bias, Groups(count=4, kept=1, score="max", fill="-inf")), 4)
    wrong = choose(selection_scores(score, bias, Groups(count=4, kept=1, score="max", fill="0")), 4)
    assert not same_set(right, wrong).any()
