"""The numbers of the laboratory against values that are known otherwise."""

import math

import pytest
import torch

from moeprobe.findings.gates import Alternative
from moeprobe.laboratory.alternatives import alternatives, derivative, steepest, steepness
from moeprobe.routers.rule import SCORE_FUNCTIONS, scores
from tests.laboratory.samples import sample, skewed


def by_name(found: list[Alternative]) -> dict[str, Alternative]:
    return {one.function: one for one in found}


def test_equal_logits_spread_the_weights_over_all_and_one_high_logit_takes_them() -> None:
    even = by_name(alternatives(sample(torch.zeros(300, 8), k=4), seed=0))
    for one in even.values():
        assert one.weights.p50 == pytest.approx(4)
        assert one.scores.p50 == pytest.approx(8)
    high = torch.zeros(300, 8)
    high[:, 0] = 30
    peaked = by_name(alternatives(sample(high, k=4), seed=0))
    assert peaked["softmax"].weights.p50 == pytest.approx(1, abs=1e-6)
    assert peaked["sigmoid"].weights.p50 == pytest.approx(math.exp(0.4 * math.log(2.5) + 0.6 * math.log(5)))
    assert peaked["softmax"].weights.p50 < peaked["sqrtsoftplus"].weights.p50 < peaked["sigmoid"].weights.p50


def test_the_published_temperatures() -> None:
    """docs/science.md D, at -5, 0 and 5."""
    at = torch.tensor([-5.0, 0.0, 5.0], dtype=torch.float64)
    assert steepness(at, "softmax").tolist() == [1, 1, 1]
    assert steepness(at, "sigmoid").tolist() == pytest.approx([0.993, 0.5, 0.0067], abs=1e-3)
    assert steepness(at, "sqrtsoftplus").tolist() == pytest.approx([0.498, 0.361, 0.099], abs=1e-3)


@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
def test_derivatives_are_those_of_the_scores(function: str) -> None:
    logits = skewed(50, 6).double().requires_grad_()
    score = scores(logits, function)
    found = derivative(logits.detach(), function)
    for expert in range(6):
        (gradient,) = torch.autograd.grad(score[:, expert].sum(), logits, retain_graph=True)
        torch.testing.assert_close(found[:, expert], gradient[:, expert])
    assert float(found.max()) <= steepest(function) + 1e-9


def test_coupling_before_and_after_the_norm() -> None:
    """A softmax couples its scores, renormalising couples all, and nothing reaches the unchosen."""
    found = by_name(alternatives(sample(skewed(300, 8), k=3), seed=0))
    assert found["softmax"].coupling == pytest.approx(0.5)
    assert found["sigmoid"].coupling == found["sqrtsoftplus"].coupling == 0
    for one in found.values():
        assert one.coupling_weights == pytest.approx(0.5)
        assert one.unchosen_gradient == pytest.approx(0, abs=1e-12)
    single = alternatives(sample(skewed(300, 8), k=1), seed=0)
    assert all(one.coupling_weights is None for one in single)


def test_fading_is_seen_at_the_ends() -> None:
    low = by_name(alternatives(sample(skewed(300, 8) - 12, k=2), seed=0))
    assert low["sigmoid"].faded > 0.9
    high = by_name(alternatives(sample(skewed(300, 8) + 12, k=2), seed=0))
    assert high["sigmoid"].exact["bfloat16"] == 1
    assert high["sigmoid"].exact["float32"] < 0.05
    assert high["sigmoid"].ties["bfloat16"] == 1
    assert high["softmax"].ties["float32"] == 0


def test_coarse_dtypes_tie_and_float32_does_not() -> None:
    found = by_name(alternatives(sample(skewed(2000, 64), k=8), seed=0))
    for one in found.values():
        assert one.ties["float32"] == one.changed["float32"] == 0
        assert one.ties["bfloat16"] > one.ties["float16"] > 0
        assert 0 < one.changed["bfloat16"] < one.ties["bfloat16"]


def test_flips_grow_with_the_step_and_with_small_scores() -> None:
    found = by_name(alternatives(sample(skewed(1000, 32), k=4), seed=0))
    for one in found.values():
        assert 0 < one.flips["0.001"] < one.flips["0.01"] < 1
    assert found["softmax"].flips["0.01"] > 2 * found["sigmoid"].flips["0.01"]


def test_the_own_bias_belongs_to_the_own_function_alone() -> None:
    bias = torch.zeros(8)
    bias[3] = 100
    found = by_name(alternatives(sample(skewed(300, 8), bias=bias), seed=0))
    assert found["sigmoid"].own
    assert not found["softmax"].own
    # One of two slots is settled by the bias, so only the other one can change.
    assert found["sigmoid"].flips["0.01"] < 0.5
    assert found["sqrtsoftplus"].flips == by_name(alternatives(sample(skewed(300, 8)), seed=0))["sqrtsoftplus"].flips
