"""Merged = streamed = computed at once, for every statistic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moeprobe.findings.router import Arithmetic, Bias, Router
from moeprobe.recipe import SpecialisationRecipe
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.collect import Collector, RouterStatistics
from moeprobe.statistics.document_labels import LabelledDocuments
from moeprobe.statistics.questions import ProbeFacts, RouterQuestions
from moeprobe.statistics.statistic import Statistic

EXPERTS, K, HIDDEN, DOCUMENTS = 6, 2, 8, 5
SOURCES = ["a", "b", "a", "c", "b"]


def gate(kind: str = "top-k") -> Gate:
    generator = torch.Generator().manual_seed(0)
    bias = torch.linspace(-0.2, 0.2, EXPERTS)
    router = Router(
        path="layers.1.gate", layer=1, kind=kind, module="Gate", experts=EXPERTS, score_columns=EXPERTS, top_k=K,
        hidden_size=HIDDEN, score_function="sigmoid", renormalised=True, scaling_factor=2.0, output_factor=1.0,
        selection_bias=Bias(name="b", dtype="float32", stored_dtype=None, values=bias.tolist()), origin="found",
        arithmetic=Arithmetic(product="float32", score="float32", selection="float32", weights="float32"),
    )  # fmt: skip
    table = torch.stack([torch.randperm(EXPERTS, generator=generator)[:K] for _ in range(50)])
    return Gate(
        router=router,
        weight=torch.randn(EXPERTS, HIDDEN, generator=generator),
        selection_bias=bias,
        table=table if kind == "hash" else None,
    )


def record(document: int, tokens: int, with_nan: bool, kind: str = "top-k") -> Record:
    """One whole document."""
    live = gate(kind)
    generator = torch.Generator().manual_seed(document)
    inputs = torch.randn(tokens, HIDDEN, generator=generator)
    logits = live.logits(inputs)
    ids = torch.randint(0, 50, (tokens,), generator=generator)
    scores = logits.sigmoid()
    experts = live.table[ids] if kind == "hash" else live.choose(live.selection(scores))
    weights = scores.gather(-1, experts)
    weights = 2 * weights / weights.sum(dim=-1, keepdim=True)
    if with_nan:
        logits[0, 0] = float("nan")
    return Record(
        router=live.router, logits=logits, experts=experts, weights=weights, token_ids=ids,
        positions=torch.arange(tokens), documents=torch.full((tokens,), document), gate=live, inputs=inputs,
        routed=torch.rand(tokens, generator=generator) + 0.1, shared=torch.rand(tokens, generator=generator) + 0.1,
        residual=torch.rand(tokens, generator=generator) + 1,
    )  # fmt: skip


def join(records: list[Record]) -> Record:
    first = records[0]
    fields = (
        "logits",
        "experts",
        "weights",
        "token_ids",
        "positions",
        "documents",
        "inputs",
        "routed",
        "shared",
        "residual",
    )
    joined: dict[str, Tensor] = {f: torch.cat([getattr(r, f) for r in records]) for f in fields}
    return Record(router=first.router, gate=first.gate, **joined)


def collect(records: list[Record]) -> Collector:
    collector = Collector(SOURCES, torch.arange(50).repeat_interleave(2))
    for one in records:
        collector.update(one)
    return collector


def states(collector: Collector) -> dict[str, dict[str, Tensor]]:
    statistics: RouterStatistics = collector.routers["layers.1.gate"]
    return {type(s).__name__: s.state() for s in statistics.all}


def assert_equal(first: Collector, second: Collector, but: tuple[str, ...] = (), float32: tuple[str, ...] = ()) -> None:
    for name, state in states(first).items():
        for part, tensor in state.items():
            other = states(second)[name][part]
            if part in but:
                continue
            if tensor.is_floating_point():
                error = 1e-5 if part in float32 else 1e-9
                assert torch.allclose(tensor, other, rtol=error, atol=error, equal_nan=True), (name, part)
            else:
                assert torch.equal(tensor, other), (name, part)


@pytest.mark.parametrize("kind", ["top-k", "hash"])
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 30), min_size=2, max_size=DOCUMENTS),
    cut=st.integers(1, DOCUMENTS - 1),
    with_nan=st.booleans(),
)
def test_merged_is_streamed_is_at_once(kind: str, lengths: list[int], cut: int, with_nan: bool) -> None:
    records = [record(i, n, with_nan and i == 0, kind) for i, n in enumerate(lengths)]
    cut = min(cut, len(records) - 1)
    streamed = collect(records)
    merged = collect(records[:cut])
    merged.merge(collect(records[cut:]))
    assert_equal(streamed, merged)
    # At once, noise and shuffles draw other numbers: those two states are random by design. Within a record, sums over
    # the rows are of float32 for 32 rows at a time, and these are other rows then.
    together = ("per_expert", "squares", "input_mean")
    assert_equal(streamed, collect([join(records)]), but=("noise", "shuffled"), float32=together)


def test_merging_is_commutative_and_with_nothing_changes_nothing() -> None:
    first, second = collect([record(0, 20, False)]), collect([record(1, 15, True)])
    there, back = collect([record(0, 20, False)]), collect([record(1, 15, True)])
    there.merge(second)
    back.merge(first)
    assert_equal(there, back)
    empty = Collector(SOURCES, torch.arange(50).repeat_interleave(2))
    there.merge(empty)
    assert_equal(there, back)


def test_nothing_seen_is_not_zero() -> None:
    statistics = RouterStatistics(gate().router, SOURCES, torch.arange(50))
    assert all(statistic.value() is None for statistic in statistics.all)
    assert statistics.activations(0) is None


def test_every_state_is_declared() -> None:
    """A state that is neither added, least nor most would be lost in a merge."""
    for statistic in RouterStatistics(gate().router, SOURCES, torch.arange(50)).all:
        declared = {*statistic.added, *statistic.least, *statistic.most}
        tensors = {n for n, v in vars(statistic).items() if isinstance(v, Tensor) and not n.startswith("_")}
        assert tensors == declared, type(statistic)


def test_all_statistics_are_collected() -> None:
    collected = {type(s) for s in RouterStatistics(gate().router, SOURCES, torch.arange(50)).all}
    facts = ProbeFacts(LabelledDocuments.of([]), torch.zeros(0, dtype=torch.int64), torch.arange(2), {})
    asked = {type(s) for s in RouterQuestions(gate().router, facts, SpecialisationRecipe(), layers=1).all}
    assert collected | asked == set(Statistic.__subclasses__())


def test_nan_rows_are_counted_and_left_out() -> None:
    seen = collect([record(0, 20, True)]).activations("layers.1.gate")
    assert seen is not None
    assert seen.logits is not None
    assert seen.logits.nonfinite == 1
    assert math.isfinite(seen.logits.mean)
