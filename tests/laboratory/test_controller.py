"""The balance rules do what they say, and settle where the balance law says."""

import pytest
import torch

from moeprobe.findings.gates import Controller
from moeprobe.findings.router import Groups
from moeprobe.laboratory.controller import Plan, compare, controller, quantiles, update
from moeprobe.routers.rule import scores
from tests.laboratory.samples import sample, skewed

PLAN = Plan(step=2e-3, updates=500, batch=512)


@pytest.fixture(scope="module")
def run() -> Controller:
    return controller(sample(skewed(), k=4), PLAN, seed=0)


def test_an_overloaded_expert_goes_down_and_a_starved_one_up() -> None:
    load = torch.tensor([30.0, 10.0, 5.0, 5.0, 5.0, 5.0]).double()
    assert update("sign", load).tolist() == [-1, 0, 1, 1, 1, 1]
    assert update("centred sign", load).sum() == pytest.approx(0)
    assert update("centred sign", load)[0] == pytest.approx(-1.5)
    assert update("proportional", load).tolist() == [-2, 0, 0.5, 0.5, 0.5, 0.5]


def test_the_rules_balance(run: Controller) -> None:
    assert run.unbiased > 0.8
    for one in run.rules:
        assert one.max_vio[0] == run.unbiased
        assert one.final < run.unbiased / 3
    sign = run.rules[0]
    assert sign.final < 2 * run.floor
    assert sign.settled in sign.updates[1:]


def test_only_the_sign_rule_drifts(run: Controller) -> None:
    sign, centred, proportional = run.rules
    assert abs(sign.offset[-1]) > 0.01
    assert abs(centred.offset[-1]) < 1e-9
    assert abs(proportional.offset[-1]) < 1e-9
    # A common offset changes no choice, so both sign rules see the same load at every step.
    assert sign.max_vio == centred.max_vio
    assert sign.spread == pytest.approx(centred.spread)


def test_the_law_is_where_they_settle(run: Controller) -> None:
    assert run.one_shot < 3 * run.floor
    for one in run.rules:
        assert one.law.correlation is not None
        assert one.law.correlation > 0.95


def test_a_trained_bias_is_held_against_the_law() -> None:
    logits = skewed()
    good = -quantiles(scores(logits, "sigmoid"), 4) + 5
    healthy = controller(sample(logits, k=4, bias=good), PLAN, seed=0)
    assert healthy.law is not None
    assert healthy.law.correlation == pytest.approx(1)
    assert healthy.law.slope == pytest.approx(1)
    assert healthy.own_offset == pytest.approx(float(good.mean()))
    assert healthy.by_checkpoint is not None
    assert healthy.by_checkpoint < 0.3 * healthy.unbiased
    flipped = controller(sample(logits, k=4, bias=-good), Plan(updates=1), seed=0)
    assert flipped.law is not None
    assert flipped.law.correlation == pytest.approx(-1)
    assert flipped.by_checkpoint is not None
    assert flipped.by_checkpoint > flipped.unbiased
    assert compare(torch.ones(4), torch.rand(4)).correlation is None


def test_groups_are_kept() -> None:
    groups = Groups(count=4, kept=1, score="top2-sum", fill="-inf")
    found = controller(sample(skewed(), k=4, groups=groups), PLAN, seed=0)
    # Four of four members of one group: every expert of a group has the same load, whatever its bias.
    assert found.unbiased != controller(sample(skewed(), k=4), Plan(updates=1), seed=0).unbiased
    assert found.rules[0].final < found.unbiased / 2


def test_the_seed_decides() -> None:
    short = Plan(updates=40)
    first, again = (controller(sample(skewed(), k=4), short, seed=1) for _ in range(2))
    assert first == again
    assert first != controller(sample(skewed(), k=4), short, seed=2)
