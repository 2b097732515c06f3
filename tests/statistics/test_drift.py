"""The drift between two models: values by hand on small tensors, and merged = streamed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeprobe.findings.router import Bias
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.drift import (
    DriftStatistic,
    bias_drift,
    load_shifts,
    sampling_floor,
    table_changes,
    total_variation,
)
from moeprobe.statistics.expert_order import ExpertOrder
from moeprobe.statistics.intervals import ENDS
from tests.statistics.test_merge import DOCUMENTS, EXPERTS, HIDDEN, gate, record


def small(experts: list[list[int]], weights: list[list[float]], logits: list[list[float]], live: Gate) -> Record:
    tokens = len(experts)
    return Record(
        router=live.router, logits=torch.tensor(logits), experts=torch.tensor(experts), weights=torch.tensor(weights),
        token_ids=torch.arange(tokens), positions=torch.arange(tokens), documents=torch.zeros(tokens, dtype=torch.long),
        gate=live,
    )  # fmt: skip


def plain_gate(function: str = "softmax") -> Gate:
    """Four experts, two of them chosen, no bias."""
    facts = {"score_function": function, "selection_bias": None, "experts": 4, "score_columns": 4}
    return Gate(router=gate().router.model_copy(update=facts))


BASE = [[3.0, 2.0, 0.0, -1.0], [0.0, 1.0, 2.0, 1.5], [4.0, 0.0, 3.0, 0.0]]


def test_by_hand() -> None:
    live = plain_gate()
    base = small([[0, 1], [2, 3], [0, 2]], [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5]], BASE, live)
    # The first token in another order, the second with one other expert, the third as before.
    logits = [[row[0] + 5, *(value + 5 for value in row[1:])] for row in BASE]
    logits[1][1] += 3
    tuned = small([[1, 0], [1, 2], [0, 2]], [[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]], logits, live)
    statistic = DriftStatistic(live, live, documents=1)
    statistic.update(base, tuned)
    drift = statistic.value()
    assert drift is not None
    assert (drift.tokens, drift.documents) == (3, 1)
    assert drift.overlap.value == pytest.approx(5 / 6)
    assert drift.same_sets.value == pytest.approx(2 / 3)
    # Second token: expert 1 from 0 to .25, 2 from .5 to .75, 3 from .5 to 0; the sums of the base are 1.
    assert drift.weight_l1.value == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    # Loads 2 1 2 1 and 2 2 2 0.
    assert drift.load_tv.value == pytest.approx(1 / 6)
    # The shift of all logits by 5 is invisible to softmax; one logit of the second token rose by 3.
    change = (3 * 0.75) ** 2 + 3 * (3 * 0.25) ** 2
    spread = sum(np.var(row) * 4 for row in BASE)
    assert drift.logits.value == pytest.approx(math.sqrt(change / spread))
    scores = torch.tensor(BASE).softmax(-1).double()
    ordered = scores.sort(descending=True).values
    margins = (ordered[:, 1] - ordered[:, 2]) / scores.std(dim=-1, correction=0)
    assert drift.firm_sets.value == pytest.approx(float((margins[0] + margins[2]) / margins.sum()))
    # The second token keeps one of its two experts.
    assert drift.firm_overlap.value == pytest.approx(float((margins[0] + margins[1] / 2 + margins[2]) / margins.sum()))
    assert drift.overlap.low is None, "one document gives no interval"
    assert drift.load_tv_floor is None
    assert drift.own_sets is None, "no inputs were recorded"
    assert (drift.bias, drift.table_changed, drift.renumbering) == (None, None, None)


def test_sigmoid_sees_the_offset() -> None:
    live = plain_gate("sigmoid")
    base = small([[0, 1]], [[1.0, 1.0]], [BASE[0]], live)
    tuned = replace(base, logits=base.logits + 1)
    statistic = DriftStatistic(live, live, documents=1)
    statistic.update(base, tuned)
    assert statistic.value().logits.value == pytest.approx(1 / np.std(BASE[0]))


def test_identical_models_do_not_drift() -> None:
    live = gate()
    statistic = DriftStatistic(live, live, DOCUMENTS)
    order = ExpertOrder(live)
    for number in range(DOCUMENTS):
        one = record(number, 40, with_nan=number == 0)
        statistic.update(one, one)
        order.update(one, one)
    drift = statistic.value(0.1, order.value())
    assert (
        drift.overlap.value
        == drift.same_sets.value
        == drift.firm_sets.value
        == drift.own_sets.value
        == drift.firm_overlap.value
        == 1
    )
    assert drift.weight_l1.value == drift.load_tv.value == drift.logits.value == 0
    assert (drift.nonfinite, drift.rounding, drift.renumbering, drift.shifts) == (1, 0.1, None, [])
    assert drift.bias.largest == 0
    assert 0 < drift.load_tv_floor < 0.5


def changed(number: int, tokens: int) -> tuple[Record, Record]:
    """A document read by a gate and by the same gate with noise on its rows."""
    base = record(number, tokens, with_nan=number == 0)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(EXPERTS, HIDDEN, generator=generator)
    live = replace(base.gate, weight=base.gate.weight + 0.5 * noise)
    logits = live.logits(base.inputs)
    scores = logits.sigmoid()
    experts = live.choose(live.selection(scores))
    return base, replace(base, gate=live, logits=logits, experts=experts, weights=scores.gather(-1, experts))


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(2, 30), min_size=2, max_size=DOCUMENTS), cut=st.integers(1, DOCUMENTS - 1))
def test_merged_is_streamed(lengths: list[int], cut: int) -> None:
    pairs = [changed(number, tokens) for number, tokens in enumerate(lengths)]
    cut = min(cut, len(pairs) - 1)
    for make in (
        lambda: DriftStatistic(pairs[0][0].gate, pairs[0][1].gate, DOCUMENTS),
        lambda: ExpertOrder(pairs[0][0].gate),
    ):
        streamed, first, second = make(), make(), make()
        for place, pair in enumerate(pairs):
            streamed.update(*pair)
            (first if place < cut else second).update(*pair)
        first.merge(second)
        for name, tensor in streamed.state().items():
            assert torch.allclose(tensor.double(), first.state()[name].double(), rtol=1e-9), name
        assert set(streamed.added) == {
            n for n, v in vars(streamed).items() if isinstance(v, torch.Tensor) and not n.startswith("_")
        }


def test_own_is_the_gates_doing_and_not_the_inputs() -> None:
    base, tuned = changed(1, 300)
    live, other = base.gate, tuned.gate
    moved = DriftStatistic(live, other, DOCUMENTS)
    moved.update(base, tuned)
    drift = moved.value()
    assert drift.own_sets.value == drift.same_sets.value < 0.9
    # The same gate behind other inputs.
    inputs = base.inputs.flip(0)
    logits = live.logits(inputs)
    experts = live.choose(live.selection(logits.sigmoid()))
    fed = DriftStatistic(live, live, DOCUMENTS)
    fed.update(base, replace(base, inputs=inputs, logits=logits, experts=experts))
    drift = fed.value()
    assert drift.own_sets.value == 1
    assert drift.same_sets.value < 0.5


def test_near_ties_count_little_by_margin() -> None:
    live = plain_gate()
    firm, tie = [9.0, 8.0, 0.0, 0.0], [3.0, 1.0, 0.999, 0.0]
    base = small([[0, 1], [0, 1]], [[0.5, 0.5]] * 2, [firm, tie], live)
    tuned = replace(base, experts=torch.tensor([[0, 1], [0, 2]]))
    statistic = DriftStatistic(live, live, documents=1)
    statistic.update(base, tuned)
    assert statistic.value().same_sets.value == 0.5
    assert statistic.value().firm_sets.value > 0.999


@pytest.mark.parametrize("kind", ["top-k", "hash"])
def test_another_order_is_named(kind: str) -> None:
    order = ExpertOrder(gate(kind))
    now = torch.tensor([2, 0, 1, 3, 5, 4])
    for number in range(DOCUMENTS):
        base = record(number, 60, with_nan=False, kind=kind)
        logits = torch.empty_like(base.logits)
        logits[:, now] = base.logits + 3
        order.update(base, replace(base, logits=logits, experts=now[base.experts]))
    found = order.value()
    assert found.now == now.tolist()
    assert found.likeness == pytest.approx(1, abs=1e-6)
    assert found.likeness_as_is < 0.5


def test_unrelated_logits_have_no_order() -> None:
    order = ExpertOrder(gate())
    base, other = record(0, 200, False), record(1, 200, False)
    order.update(base, replace(other, gate=base.gate))
    found = order.value()
    assert found is None or found.likeness < 0.5


def test_intervals_come_from_documents() -> None:
    """Of 40 documents every second one changes altogether: the interval is that of a coin thrown 40 times."""
    live = plain_gate()
    statistic = DriftStatistic(live, live, documents=40)
    for number in range(40):
        base = small([[0, 1]] * 10, [[0.5, 0.5]] * 10, [BASE[0]] * 10, live)
        base = replace(base, documents=torch.full((10,), number))
        statistic.update(base, replace(base, experts=torch.tensor([[2, 3]] * 10)) if number % 2 else base)
    drift = statistic.value()
    expected = np.quantile(np.random.default_rng(1).binomial(40, 0.5, 100_000) / 40, ENDS)
    assert drift.overlap.value == 0.5
    assert [drift.overlap.low, drift.overlap.high] == pytest.approx(expected, abs=0.06)


def test_total_variation_and_its_floor() -> None:
    assert total_variation(np.array([1.0, 1, 0, 0, 0, 4])) == 1.0
    assert total_variation(np.array([1.0, 3, 2, 2])) == 0.25
    same = torch.full((50, 4), 10)
    assert sampling_floor(same) == 0
    # Whole documents go to one expert: with 50 of them, two samples differ as two multinomials of 50 do.
    one = torch.zeros(50, 2, dtype=torch.int64)
    one[torch.arange(50), torch.arange(50) % 2] = 7
    assert sampling_floor(one) == pytest.approx(math.sqrt(2) * 0.5 / math.sqrt(50) * math.sqrt(2 / math.pi), rel=0.1)


def test_shifts_are_kept_from_a_factor_of_two() -> None:
    base = torch.full((40, 4), 10)
    tuned = base.clone()
    tuned[:, 1], tuned[:, 2] = 0, 19
    (cold,) = load_shifts(base, tuned, documents=40)
    assert (cold.expert, cold.base, cold.tuned) == (1, 1.0, 0.0)
    assert cold.ratio.value == pytest.approx(0.5 / 400.5)
    assert cold.ratio.low == pytest.approx(cold.ratio.high)
    assert load_shifts(base, tuned, documents=5)[0].ratio.low is None


def test_bias_drift_ignores_the_offset() -> None:
    live = plain_gate()

    def with_bias(values: list[float] | None) -> Gate:
        bias = None if values is None else Bias(name="b", dtype="float32", stored_dtype=None, values=values)
        return live.with_router(live.router.model_copy(update={"selection_bias": bias}))

    first = with_bias([0.0, 1.0, 2.0, 3.0])
    moved = bias_drift(first, with_bias([10.0, 11.0, 12.0, 13.5]))
    assert (moved.largest, moved.expert, moved.spread) == (0.5, 3, 1.5)
    assert bias_drift(first, with_bias(None)).largest == 1.5, "a lost bias is one of zeros"
    assert bias_drift(with_bias(None), with_bias(None)) is None
    assert bias_drift(first, with_bias([0.0, 1.0, 2.0, math.nan])) is None


def test_table_changes() -> None:
    table = torch.tensor([[0, 1], [2, 3], [4, 5]])
    assert table_changes(table, table.flip(1)) == 0, "the order within a row is free"
    other = table.clone()
    other[1, 1] = 5
    assert table_changes(table, other) == 1
    assert table_changes(table, table[:2]) == 0, "a vocabulary that was cut"
    assert table_changes(table[:2], table) == 0, "a vocabulary that was extended"
    assert table_changes(table, None) is None


def test_nothing_seen_is_not_zero() -> None:
    assert DriftStatistic(gate(), gate(), 3).value() is None
    assert ExpertOrder(gate()).value() is None
