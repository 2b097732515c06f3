"""The short ways give what the long ways give: finite rows, the choice without a sort, extremes among equals."""

from dataclasses import replace

import pytest
import torch

from moeprobe.findings.router import Groups
from moeprobe.records.record import Record
from moeprobe.routers.rule import same_set
from moeprobe.statistics.logits import LogitStatistic
from moeprobe.statistics.noise import shaken
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import finite_rows, taken
from tests.statistics.test_merge import EXPERTS, K, record


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_finite_rows(bad: float) -> None:
    numbers = torch.full((5, 4), 3e38)  # whose sum overflows
    finite = finite_rows(numbers)
    assert finite is not None
    assert finite.all()
    assert finite_rows(numbers / 100) is None
    numbers[2, 1] = bad
    numbers[4, 0] = -bad
    finite = finite_rows(numbers)
    assert finite is not None
    assert finite.tolist() == [True, True, False, True, False]
    assert taken(numbers, finite_rows(numbers)).shape == (3, 4)


def seen(kind: str) -> Observation:
    """A record whose choice is partly not that of the float32 scores, with ties and unused slots."""
    whole = record(1, 60, False)
    gate = whole.gate
    assert whole.inputs is not None
    assert gate.weight is not None
    inputs, experts, weight = whole.inputs.clone(), whole.experts.clone(), gate.weight.clone()
    inputs[5:15] = 0  # every score is equal but for the bias
    weight[3] = weight[2]
    bias = torch.zeros(EXPERTS)
    router = gate.router.model_copy(update={"selection_bias": None})
    if kind == "groups":
        router = router.model_copy(update={"groups": Groups(count=3, kept=2, score="max", fill="-inf")})
    experts[20:25] = experts[20:25].flip(0)
    experts[30, 1] = -1
    experts[31] = experts[31, 0]
    inputs[40, 0] = float("nan")
    gate = replace(gate, router=router, weight=weight, selection_bias=bias if kind == "bias" else None)
    return Observation(replace(whole, router=router, gate=gate, inputs=inputs, experts=experts, logits=None))


@pytest.mark.parametrize("kind", ["plain", "bias", "groups"])
def test_the_choice_is_that_of_a_sort(kind: str) -> None:
    one = seen(kind)
    assert one.selection is not None
    assert one.margin is not None
    assert one.chosen is not None
    assert one.rounded is not None
    assert one.noisy is not None
    chosen = one.gate.choose(one.selection)
    best = one.selection.topk(K + 1, dim=-1).values.double()
    assert same_set(one.chosen, chosen).all()
    assert torch.allclose(one.margin, best[:, K - 1] - best[:, K], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(one.rounded, ~same_set(chosen, one.record.experts))
    assert bool(one.rounded.any())
    assert int((one.margin == 0).sum()) >= (0 if kind == "groups" else 10)
    assert one.record.inputs is not None
    logits = one.gate.logits(torch.cat(list(shaken(one.record.inputs, 0, one.generator(1)))))
    assert logits is not None
    again = one.gate.choose(one.gate.selection(one.gate.scores(logits), logits))  # type: ignore[arg-type]
    assert torch.equal(one.noisy, ~same_set(again, chosen))


def test_equal_extremes_do_not_depend_on_the_order() -> None:
    """Two batches hold the same smallest logit at other experts and tokens: merged is streamed, in either order."""

    def flat(first: int) -> Record:
        whole = record(first, 6, False)
        return replace(whole, inputs=None, logits=torch.zeros(6, EXPERTS), token_ids=torch.arange(first, first + 6))

    streams = []
    for order in ((3, 1), (1, 3)):
        statistic = LogitStatistic(record(1, 2, False).router)
        for first in order:
            statistic.update(Observation(flat(first)))
        streams.append(statistic)
    one, two = (LogitStatistic(record(1, 2, False).router) for _ in range(2))
    one.update(Observation(flat(3)))
    two.update(Observation(flat(1)))
    one.merge(two)
    for name in ("smallest", "largest"):
        assert torch.equal(getattr(streams[0], name), getattr(streams[1], name))
        assert torch.equal(getattr(streams[0], name), getattr(one, name))
    assert one.smallest.tolist() == [0.0, 0.0, 1.0]
    assert one.largest.tolist() == [0.0, EXPERTS - 1, 8.0]
