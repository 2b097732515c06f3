"""The contract statistic: rounding is not counted, everything else is."""

from dataclasses import replace

import pytest
import torch

from moeprobe.findings.contract import Contract
from moeprobe.findings.router import Groups
from moeprobe.records.record import Record
from moeprobe.statistics.contract import ContractStatistic
from moeprobe.statistics.observation import Observation
from tests.statistics.test_merge import gate, record

TOKENS = 200


def counted(seen: Record) -> Contract:
    statistic = ContractStatistic(seen.router)
    statistic.update(Observation(seen))
    value = statistic.value()
    assert value is not None
    return value


@pytest.mark.parametrize("kind", ["top-k", "hash"])
def test_healthy(kind: str) -> None:
    found = counted(record(0, TOKENS, False, kind))
    assert (found.executed, found.weighed) == (TOKENS, TOKENS)
    assert (found.not_returned, found.other_weights, found.other_weighting) == (0, 0, 0)
    assert found.other_choice == (None if kind == "hash" else 0)


def test_order_of_slots_and_factors_are_free() -> None:
    whole = record(0, TOKENS, False)
    turned = replace(whole, experts=whole.experts.flip(-1), weights=3 * whole.weights.flip(-1))
    found = counted(turned)
    assert (found.other_choice, found.other_weighting) == (0, 0)


def test_ties_within_rounding_are_no_difference() -> None:
    whole = record(0, TOKENS, False)
    assert whole.logits is not None
    logits = torch.zeros_like(whole.logits)
    router = whole.router.model_copy(update={"selection_bias": None})
    live = replace(whole.gate, router=router, selection_bias=None)
    experts = torch.tensor([[5, 2]]).expand(TOKENS, 2)
    tied = replace(whole, router=router, gate=live, logits=logits, experts=experts, weights=torch.ones(TOKENS, 2))
    assert counted(tied).other_choice == 0
    logits[:, 3] = 1e-6
    assert counted(replace(tied, logits=logits)).other_choice == 0
    logits[:, 3] = 1e-3
    assert counted(replace(tied, logits=logits)).other_choice == TOKENS


def test_shifted_experts() -> None:
    whole = record(0, TOKENS, False)
    shifted = (whole.experts + 1) % 6
    inside = counted(replace(whole, experts=shifted))
    assert inside.other_choice is not None
    assert inside.other_choice > 150
    outside = counted(replace(whole, experts=shifted, returned_experts=whole.experts, returned_weights=whole.weights))
    assert outside.not_returned > 150
    assert outside.other_choice == 0


def test_what_the_experts_receive() -> None:
    whole = record(0, TOKENS, False)
    returned = {"returned_experts": whole.experts, "returned_weights": whole.weights}
    turned = replace(whole, experts=whole.experts.flip(-1), **returned)
    assert counted(turned).not_returned == 0
    assert counted(turned).other_weights > 150  # The indices were sorted, their weights were not.
    assert counted(replace(turned, weights=2.5 * whole.weights.flip(-1))).other_weights == 0
    nobody = {"experts": torch.zeros_like(whole.experts), "weights": torch.zeros_like(whole.weights)}
    parked = replace(whole, **nobody, **returned)
    assert counted(parked).not_returned == 0


def test_repeated_expert_is_another_choice() -> None:
    whole = record(0, TOKENS, False)
    twice = whole.experts[:, :1].expand(-1, 2)
    assert counted(replace(whole, experts=twice)).other_choice == TOKENS


def test_biased_weights_and_ignored_bias() -> None:
    whole = record(0, TOKENS, False)
    assert whole.logits is not None
    bias = whole.gate.selection_bias
    assert bias is not None
    score = whole.logits.sigmoid()
    found = counted(replace(whole, weights=(score + bias).gather(-1, whole.experts)))
    assert found.other_weighting is not None
    assert found.other_weighting > 150
    assert found.other_weighting_biased == 0
    ignored = score.topk(2, dim=-1).indices
    found = counted(replace(whole, experts=ignored, weights=score.gather(-1, ignored)))
    assert found.other_choice is not None
    assert found.other_choice > 20
    assert (found.other_choice_unbiased, found.other_weighting) == (0, 0)


@pytest.mark.parametrize("fill", ["-inf", "0"])
def test_outside_the_best_groups(fill: str) -> None:
    groups = Groups(count=3, kept=1, score="top2-sum", fill=fill)
    router = gate().router.model_copy(update={"groups": groups})
    live = replace(gate(), router=router)
    whole = replace(record(0, TOKENS, False), router=router, gate=live)
    assert whole.logits is not None
    inside = live.choose(live.selection(whole.logits.sigmoid()))
    weights = whole.logits.sigmoid().gather(-1, inside)
    right = counted(replace(whole, experts=inside, weights=weights))
    # With zeros, groups that were left out beat negative biased scores: the bug of DeepSeek-V3 issue 741.
    assert (right.outside_groups, right.other_choice) == (0 if fill == "-inf" else 2, 0)
    wrong = counted(whole)  # Chosen without groups.
    assert wrong.outside_groups is not None
    assert wrong.outside_groups > 50


def test_bfloat16_scores_are_recomputed_in_bfloat16() -> None:
    whole = record(0, TOKENS, False)
    assert whole.logits is not None
    arithmetic = gate().router.arithmetic
    assert arithmetic is not None
    short = arithmetic.model_copy(update={"score": "bfloat16", "weights": "bfloat16"})
    router = whole.router.model_copy(update={"arithmetic": short})
    live = replace(whole.gate, router=router)
    logits = whole.logits.bfloat16()
    score = logits.sigmoid()
    experts = live.choose(live.selection(score))
    chosen = score.gather(-1, experts)
    weights = (chosen / chosen.sum(dim=-1, keepdim=True)).float()
    found = counted(replace(whole, router=router, gate=live, logits=logits.float(), experts=experts, weights=weights))
    assert (found.other_choice, found.other_weighting) == (0, 0)


def test_not_finite_and_unused_slots_are_left_out() -> None:
    whole = record(0, TOKENS, True)
    whole.experts[1, 0] = -1
    assert counted(whole).chosen == TOKENS - 2
