"""Co-activation, repeats, capacity, training losses and placement, on tensors small enough to count by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import (
    load_balancing_loss_func as switch_balance_loss,
)
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from moeprobe.statistics.capacity import CapacityStatistic, capacity, queue
from moeprobe.statistics.coactivation import CoActivationStatistic, independent_pairs
from moeprobe.statistics.document_labels import LabelledDocuments
from moeprobe.statistics.placement import PlacementStatistic, imbalance, pack, sent
from moeprobe.statistics.repeats import RepeatStatistic
from moeprobe.statistics.training_losses import TrainingLossStatistic, pooled_balance_loss
from tests.statistics.labelled import record, router, seen, texts


def test_pairs_by_hand() -> None:
    counted = CoActivationStatistic(router(4, 2))
    counted.update(seen(record([[0, 1], [1, 0], [2, 3], [0, 2], [1, -1]], [0] * 5, columns=4)))
    assert counted.together.tolist() == [[3, 2, 1, 0], [2, 3, 0, 0], [1, 0, 2, 1], [0, 0, 1, 1]]
    found = counted.value()
    assert found.tokens == 5
    assert {(pair.first, pair.second): pair.share for pair in found.attracted}[(0, 1)] == 2 / 5


@pytest.mark.parametrize("k", [2, 3])
def test_independence_of_distinct_experts(k: int) -> None:
    """For k = 2 exactly two draws given that they differ; for more, within a few per cent of k such draws."""
    odds = np.array([3.0, 1.0, 1.0, 0.5, 0.5, 2.0])
    sets = list(itertools.combinations(range(6), k))
    chance = np.array([math.prod(odds[list(one)]) for one in sets])
    chance /= chance.sum()
    exact = np.zeros((6, 6))
    for one, p in zip(sets, chance, strict=True):
        for i, j in itertools.permutations(one, 2):
            exact[i, j] += p
    found = independent_pairs(exact.sum(axis=1))
    assert found.sum(axis=1) == pytest.approx(exact.sum(axis=1), rel=1e-6)
    assert found == pytest.approx(exact, rel=1e-6 if k == 2 else 0.07)
    even = independent_pairs(np.full(8, 2 * 1.0))
    assert even[0, 1] == pytest.approx(2 / 7)


def test_independent_pairs_show_the_floor_and_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    counted = CoActivationStatistic(router(16, 4))
    logits = torch.randn(5_000, 16, generator=generator)
    counted.update(seen(record(logits.topk(4).indices, [0] * 5_000)))
    found = counted.value()
    assert found.distance == pytest.approx(found.floor, rel=0.1)
    single = CoActivationStatistic(router(4, 1))
    single.update(seen(record([[0], [1]], [0, 0], columns=4)))
    assert single.value() is None


def test_repeats_by_hand() -> None:
    documents = LabelledDocuments.of(texts(2))
    counted = RepeatStatistic(router(6, 2), documents)
    weights = torch.tensor([[1.0, 2.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    # First choices 1, 1, 2 | 3, 3: two pairs in the first document, one in the second, none across.
    counted.update(seen(record([[0, 1], [1, 2], [2, 1], [3, 4], [3, 5]], [0, 0, 0, 1, 1], columns=6, weights=weights)))
    found = counted.value()
    assert found.pairs == 3
    assert found.first.value == pytest.approx(2 / 3)
    assert found.either.value == 1
    assert found.overlap.value == pytest.approx((1 + 2 + 1) / 6)
    assert (found.first_even, found.either_even) == (1 / 6, pytest.approx(1 - 6 / 15))
    assert found.first_by_source == {"s0": 0.5, "s1": 1.0}


def test_the_chance_of_a_repeat_is_that_of_mixtral_and_of_the_load() -> None:
    generator = torch.Generator().manual_seed(0)
    documents = LabelledDocuments.of(texts(1))
    counted = RepeatStatistic(router(8, 2), documents)
    logits = torch.randn(20_000, 8, generator=generator)
    counted.update(seen(record(logits.topk(2).indices, [0] * 20_000, columns=8)))
    found = counted.value()
    assert found.first_even == 0.125
    assert found.either_even == pytest.approx(0.4643, abs=1e-4)
    assert found.first.value == pytest.approx(found.first_chance, abs=0.01)
    assert found.either.value == pytest.approx(0.4643, abs=0.012)
    # Where one expert is always first, repeats are no news.
    uneven = RepeatStatistic(router(8, 2), documents)
    uneven.update(seen(record([[0, 1 + place % 7] for place in range(100)], [0] * 100, columns=8)))
    assert uneven.value().first.value == uneven.value().first_chance == 1


def test_the_queue_serves_first_choices_and_early_tokens_first() -> None:
    group = torch.tensor([0, 0, 0, 1])
    experts = torch.tensor([[0, 1], [1, 0], [0, 2], [0, -1]])
    assert queue(group, experts).tolist() == [[0, 1], [0, 2], [1, 0], [0, 0]]
    assert capacity(1.0, torch.tensor([8, 3, 1]), router(4, 1)).tolist() == [2, 1, 1]
    assert capacity(1.25, torch.tensor([8, 80]), router(4, 2)).tolist() == [5, 50]


def test_drops_by_hand() -> None:
    counted = CapacityStatistic(router(2, 1), [1.0, 2.0])
    # Ten tokens, all to expert 0: at factor 1 five find a place, at factor 2 all do.
    counted.update(seen(record([[0]] * 10, [0] * 10, columns=2)))
    found = {(one.factor, one.group): one for one in counted.value().simulated}
    assert found[(1.0, "sequence")].share == 0.5
    assert found[(1.0, "sequence")].by_tenth == [0.0] * 5 + [1.0] * 5
    assert found[(2.0, "sequence")].share == 0
    assert counted.value().measured is None
    # Two documents of opposite taste share a batch without a drop, and drop half of their own.
    pair = CapacityStatistic(router(2, 1), [1.0])
    pair.update(seen(record([[0]] * 10 + [[1]] * 10, [0] * 10 + [1] * 10, columns=2)))
    shares = {one.group: one.share for one in pair.value().simulated}
    assert shares == {"sequence": 0.5, "batch": 0.0}


def test_measured_drops_are_not_simulated() -> None:
    counted = CapacityStatistic(router(2, 1), [1.0])
    dropping = record([[0]] * 6 + [[-1]] * 4, [0] * 10, columns=2, module="SwitchTransformersTop1Router")
    counted = CapacityStatistic(dropping.router, [1.0])
    counted.update(seen(dropping))
    found = counted.value()
    assert (found.measured, found.simulated) == (0.4, [])
    assert found.measured_by_tenth == [0.0] * 6 + [1.0] * 4
    # A router that may leave slots empty by choice has dropped nothing.
    skipping = CapacityStatistic(router(2, 1), [1.0])
    skipping.update(seen(record([[0]] * 6 + [[-1]] * 4, [0] * 10, columns=2)))
    assert (skipping.value().measured, skipping.value().assignments) == (None, 6)


def test_losses_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(60, 8, generator=generator) * 2 for _ in range(3)]
    counted = []
    for logits in layers:
        one = TrainingLossStatistic(router(8, 2, score_function="softmax"))
        for part in logits.split(25):
            one.update(seen(record(part.topk(2).indices, [0] * len(part), columns=8, logits=part)))
        found = one.value()
        assert found.transformers == pytest.approx(float(load_balancing_loss_func((logits,), 8, 2)), rel=1e-5)
        first = torch.nn.functional.one_hot(logits.argmax(dim=-1), 8)[None, :, None]
        switch = float(switch_balance_loss(logits.softmax(dim=-1)[None], first[:, :, 0].argmax(dim=-1)))
        assert found.switch == pytest.approx(switch, rel=1e-5)
        assert found.z == pytest.approx(float(router_z_loss_func(logits[None])), rel=1e-5)
        assert found.softmax
        counted.append(one)
    assert pooled_balance_loss(counted) == pytest.approx(float(load_balancing_loss_func(tuple(layers), 8, 2)), rel=1e-5)
    assert pooled_balance_loss([]) is None
    even = TrainingLossStatistic(router(4, 1))
    even.update(seen(record([[0], [1], [2], [3]], [0] * 4, columns=4, logits=100 * torch.eye(4))))
    assert even.value().switch == pytest.approx(1)
    assert even.value().softmax is False  # this router's scores are sigmoids


def test_packing_by_hand() -> None:
    load = torch.tensor([8.0, 7, 1, 1, 6, 1])
    assert pack(load, 2).tolist() == [0, 1, 0, 0, 1, 1]
    assert imbalance(load, pack(load, 2), 2) == pytest.approx(14 / 12)
    assert imbalance(load, torch.tensor([0, 0, 0, 1, 1, 1]), 2) == pytest.approx(16 / 12)
    assert torch.bincount(pack(torch.zeros(8), 4)).tolist() == [2, 2, 2, 2]
    sets = torch.tensor([[0, 1], [0, 2], [0, -1]])
    assert sent(sets, torch.tensor([0, 0, 1, 1]), 2) == pytest.approx((1 + 2 + 1) / 3)


def test_a_plan_is_tried_on_other_documents() -> None:
    documents = LabelledDocuments.of(texts(8, sources=1))
    lengths = torch.full((8,), 10)
    counted = PlacementStatistic(router(4, 1), documents.half, lengths, [2, 3, 4, 8])
    for document in range(8):
        # Experts 0 and 1 take all in planned documents, 0 and 2 in the others.
        busy = (0, 1) if int(documents.half[document]) == 0 else (0, 2)
        counted.update(seen(record([[busy[place % 2]] for place in range(10)], [document] * 10, columns=4)))
    plans = {plan.devices: plan for plan in counted.value().plans}
    assert set(plans) == {2, 4}
    # Planned: 0 and 1 apart, 2 beside 1 (the lighter of two that are even). Tried: 40 tokens go to 0 and 2.
    assert plans[2].contiguous == 1
    assert plans[2].packed in (1.0, 2.0)
    assert plans[2].packing[0] != plans[2].packing[1] or plans[2].packing[0] != plans[2].packing[2]
    assert plans[4].contiguous == 2
    assert plans[2].contiguous_sent == 1
    assert int((counted.sets > 0).any(dim=-1).sum()) == 80


def test_one_document_makes_no_plan() -> None:
    documents = LabelledDocuments.of(texts(1))
    counted = PlacementStatistic(router(4, 1), documents.half, torch.tensor([3]), [2])
    counted.update(seen(record([[0], [1], [2]], [0] * 3, columns=4)))
    assert counted.value() is None
