"""Rows matched to the base's, a base without the experts that are gone, and where their tokens went."""

from dataclasses import replace

import pytest
import torch

from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.alignment import Alignment, match_rows
from moeprobe.statistics.drift import DriftStatistic
from moeprobe.statistics.lost_experts import LostExperts
from tests.statistics.test_merge import DOCUMENTS, EXPERTS, gate, record

ORDERS = [torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(3)]


def part(whole: Gate, order: list[int]) -> Gate:
    """A gate with these of its experts, in this order."""
    places = torch.tensor(order)
    router, bias = whole.router, whole.router.selection_bias
    facts = {
        "experts": len(order), "score_columns": len(order), "top_k": min(router.top_k, len(order)), "groups": None,
        "selection_bias": bias and bias.model_copy(update={"values": [bias.values[one] for one in order]}),
    }  # fmt: skip
    tensors = {
        name: tensor[places] for name in ("weight", "logit_bias", "selection_bias")
        if (tensor := getattr(whole, name)) is not None
    }  # fmt: skip
    return replace(whole, router=router.model_copy(update=facts), **tensors)


def ungrouped() -> Gate:
    """The gate of the tests without groups, with the rule of its weights known."""
    whole = gate()
    facts = {"groups": None, "renormalised": True, "scaling_factor": 2.0}
    return whole.with_router(whole.router.model_copy(update=facts))


def decided(live: Gate, like: Record) -> Record:
    logits = live.logits(like.inputs)
    scores = logits.sigmoid()
    experts = live.choose(live.selection(scores, logits))
    weights = scores.gather(-1, experts)
    weights = 2 * weights / weights.sum(dim=-1, keepdim=True)
    return replace(like, router=live.router, gate=live, logits=logits, experts=experts, weights=weights)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [0.0, 0.1])
def test_rows_are_found_again(order: list[int], size: float) -> None:
    weight = gate().weight
    noise = size * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    changed = (weight + noise)[torch.tensor(order)].bfloat16()
    assert match_rows(weight, changed) == order
    assert match_rows(weight, changed[:-2]) == order[:-2]


def test_rows_that_are_no_ones() -> None:
    weight = gate().weight
    other = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    assert match_rows(weight, other) is None
    assert match_rows(weight[:-1], weight) is None, "experts were added"
    assert match_rows(weight, weight[torch.tensor([0, 0, 1])]) is None, "two rows are one"
    assert match_rows(weight, None) is None
    assert match_rows(weight, weight[:, 1:]) is None
    assert match_rows(weight, weight * float("nan")) is None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_part_of_the_model_is_what_the_base_does_without_the_rest(order: list[int], gone: int) -> None:
    owners = order[: EXPERTS - gone]
    whole = ungrouped()
    tuned = part(whole, owners)
    alignment = Alignment(owners, whole, tuned)
    aligned = alignment.gate()
    statistic = DriftStatistic(aligned, tuned, DOCUMENTS)
    for number in range(DOCUMENTS):
        like = record(number, 40, False)
        statistic.update(alignment.record(decided(whole, like), aligned), decided(tuned, like))
    drift = statistic.value()
    assert drift is not None
    assert drift.overlap.value == drift.same_sets.value == drift.own_sets.value == 1
    assert drift.weight_l1.value < 1e-6
    assert drift.logits.value < 1e-6
    assert drift.bias.largest == 0


def test_where_the_tokens_of_lost_experts_went() -> None:
    """Expert 2 is gone: of its three tokens two go to expert 0 and one to expert 3, under new numbers."""
    like = record(0, 4, False)
    base = replace(like, experts=torch.tensor([[1, 2], [2, 1], [2, 3], [1, 3]]))
    tuned = replace(like, experts=torch.tensor([[1, 0], [1, 2], [2, 0], [1, 2]]))
    kept = [0, 1, 3]
    whole, first, second = (LostExperts(4, kept) for _ in range(3))
    whole.update(base, tuned)
    rows = torch.arange(4) < 2
    for one, keep in ((first, rows), (second, ~rows)):
        one.update(base.select(keep), tuned.select(keep))
    first.merge(second)
    assert all(torch.equal(value, first.state()[name]) for name, value in whole.state().items())
    found = whole.value(together=True)
    (lost,) = found.gone
    assert (lost.expert, lost.tokens, lost.load) == (2, 3, 1.5)
    assert {to.expert: to.share for to in lost.receivers} == pytest.approx({0: 2 / 3, 3: 1 / 3})
    assert found.kept == kept
