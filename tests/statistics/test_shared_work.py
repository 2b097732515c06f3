"""What is worked out once, or not at all, is what the long way gives: sums, zero scores, products, waiting records."""

from dataclasses import replace

import pytest
import torch

from moeprobe.experiments.gradient import GradientTest, _all_above_zero
from moeprobe.findings.router import Arithmetic, ScoreFunction
from moeprobe.routers.routing import Routing
from moeprobe.routers.rule import scores
from moeprobe.routers.verify import same_routing
from moeprobe.statistics.by_router import ByRouter
from moeprobe.statistics.inputs import InputSums
from moeprobe.statistics.observation import Observation, repeated
from moeprobe.statistics.rows import column_sums
from moeprobe.statistics.selection import SelectionStatistic
from moeprobe.statistics.tokens import Tokens
from tests.statistics.test_merge import EXPERTS, collect, record, states


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 75])
def test_column_sums(rows: int) -> None:
    numbers = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(column_sums(numbers), numbers.double().sum(dim=0), rtol=1e-5, atol=1e-5)
    assert column_sums(numbers).dtype == torch.float64


def test_input_sums_leave_out_what_is_not_finite_and_keep_what_only_overflows() -> None:
    inputs = torch.ones(40, 4)
    inputs[3, 1] = float("nan")
    inputs[7] = 1e25
    sums = InputSums.of(inputs)
    assert sums.rows == 39
    assert sums.squares == pytest.approx(4e50 + 38 * 4, rel=1e-6)
    assert sums.total.tolist() == pytest.approx([1e25] * 4, rel=1e-6)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "sqrtsoftplus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes_that_show_no_zero_are_right(function: ScoreFunction, dtype: torch.dtype) -> None:
    shown = 0
    for low in torch.linspace(-120, 0, 241).tolist():
        for high in (low, 0.0, 20.0, 60.0):
            logits = torch.full((2, 64), high)
            logits[1, 5] = low
            if _all_above_zero(logits, dtype):
                shown += 1
                assert bool((scores(logits.to(dtype), function) > 0).all()), (low, high)
    assert shown > 10
    assert not _all_above_zero(torch.tensor([[0.0, float("nan")]]), dtype)
    assert not _all_above_zero(torch.tensor([[0.0, float("-inf")]]), dtype)


def test_the_gradient_is_tried_where_a_score_is_zero() -> None:
    whole = record(1, 12, False)
    assert whole.logits is not None
    test = GradientTest()
    test.update(whole)
    assert test.found[whole.router.path].tokens == 0
    logits = whole.logits.clone()
    logits[4, 2] = -200
    test.update(replace(whole, logits=logits))
    assert test.found[whole.router.path].tokens == 1


def seen(product: str, off: float, rows: int = 200) -> Observation:
    """A record whose logits are off by this much in every 40th row."""
    whole = record(2, rows, False)
    assert whole.logits is not None
    logits = whole.logits.clone()
    logits[::40] += off
    router = whole.router.model_copy(
        update={"arithmetic": Arithmetic(product=product, score="float32", selection="float32", weights="float32")}
    )
    return Observation(replace(whole, router=router, logits=logits))


def test_a_float32_product_is_not_taken_again_but_checked() -> None:
    kept = seen("float32", 0.0)
    assert kept.same_logits
    assert kept.logits is kept.record.logits
    assert kept.rounding is not None
    assert kept.rounding.shape[0] < 200
    for other in (seen("float32", 0.01), seen("bfloat16", 0.0)):
        assert other.record.inputs is not None
        assert other.logits is not None
        assert other.rounding is not None
        assert torch.equal(other.logits, other.gate.logits(other.record.inputs))  # type: ignore[arg-type]
        assert other.rounding.shape[0] == 200


def test_repeated() -> None:
    experts = torch.tensor([[0, 1, 2], [2, 1, 2], [3, 3, 0]])
    assert repeated(experts).tolist() == [False, True, True]


def test_a_set_has_one_bucket_in_any_order() -> None:
    statistic = SelectionStatistic(record(1, 2, False).router)
    pairs = torch.combinations(torch.arange(EXPERTS))
    assert torch.equal(statistic._bucket(pairs), statistic._bucket(pairs.flip(-1)))
    assert statistic._bucket(pairs).unique().numel() == pairs.shape[0]


def test_the_same_memory_is_the_same_routing_and_a_nan_equals_itself() -> None:
    experts, weights = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.5, float("nan")], [1.0, 2.0]])
    returned = Routing(experts, weights)
    assert same_routing(Routing(experts, weights), returned) is True
    assert same_routing(Routing(experts.clone(), weights.clone()), returned) is True
    assert same_routing(Routing(experts.clone(), weights + 1), returned) is False
    # The transpose lies in the same memory and is another tensor.
    assert same_routing(Routing(experts.T, weights), returned) is False


def test_tokens_are_found_again_by_the_tensors() -> None:
    whole = record(3, 20, False)
    tokens = Tokens(whole)
    assert tokens.are_those_of(replace(whole, logits=None))
    assert not tokens.are_those_of(replace(whole, documents=whole.documents.clone()))
    ids = torch.tensor([3, 5, 40])
    assert whole.token_ids is not None
    expected = [ids.tolist().index(i) if i in ids.tolist() else 3 for i in whole.token_ids.tolist()]
    assert tokens.places(ids).tolist() == expected  # type: ignore[union-attr]
    mixed = Tokens(replace(whole, documents=torch.tensor([1, 0] * 10)))
    assert mixed.in_order is not None
    assert mixed.documents[mixed.in_order].tolist() == [0] * 10 + [1] * 10


def test_what_waits_is_counted_before_anybody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(0, 20, False), record(1, 15, True)]
    waiting = collect(records)
    monkeypatch.setattr("moeprobe.statistics.by_router._HELD", 0)
    at_once = collect(records)
    assert not at_once._waiting
    assert isinstance(waiting, ByRouter)
    for name, state in states(waiting).items():
        for part, tensor in state.items():
            assert torch.equal(tensor, states(at_once)[name][part]), (name, part)


def test_a_record_that_waits_keeps_no_input() -> None:
    """The input is the model's own; what it writes there later must not be counted."""
    whole = record(0, 20, False)
    assert whole.inputs is not None
    before = collect([whole])
    whole.inputs.mul_(3)
    assert before._waiting or before._routers
    assert all(one.record.inputs is None for one in before._waiting)
    again = collect([record(0, 20, False)])
    for name, state in states(before).items():
        for part, tensor in state.items():
            assert torch.equal(tensor, states(again)[name][part]), (name, part)
