"""Two models' routers side by side: aligned by name or by order, on the same tokens, from what was saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moeprobe.errors import ComparisonError
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.records.record import Record
from moeprobe.records.saved import SavedRecords
from moeprobe.records.store import RecordStore
from moeprobe.statistics.pairing import Pairing
from tests.statistics.test_merge import DOCUMENTS, gate, record


def renamed(one: Record, path: str, **facts: object) -> Record:
    router = one.router.model_copy(update={"path": path, "verified": True, **facts})
    return replace(one, router=router, gate=one.gate.with_router(router))


def saved(folder: Path, path: str = "base.gate", batches: int = 2) -> tuple[SavedRecords, list[RouterEvidence]]:
    store = RecordStore(folder)
    records = [renamed(record(number, 20, False), path) for number in range(batches)]
    for one in records:
        store.update(one)
        store.flush()
    routers = [records[0].router]
    return SavedRecords(folder, routers, 20 * batches), [RouterEvidence(router=one) for one in routers]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    store, _ = saved(tmp_path)
    first, again = record(0, 20, False), store.record(0, "base.gate")
    assert again is not None
    for field in ("logits", "experts", "weights", "token_ids", "positions", "documents"):
        assert torch.equal(getattr(first, field), getattr(again, field)), field
    assert torch.equal(again.gate.weight, gate().weight)
    assert torch.equal(again.gate.selection_bias, gate().selection_bias)
    assert store.record(0, "base.gate").router.verified


def test_an_earlier_run_leaves_nothing_behind(tmp_path: Path) -> None:
    saved(tmp_path, batches=3)
    store, _ = saved(tmp_path, batches=2)
    assert len(store) == 2


def test_routers_under_other_names_are_paired_in_order(tmp_path: Path) -> None:
    store, routers = saved(tmp_path)
    pairing = Pairing(store, routers, ["converted.gate"], DOCUMENTS)
    tuned = [renamed(record(number, 20, False), "converted.gate") for number in range(2)]
    for one in tuned:
        pairing.update(one)
        pairing.flush()
    pairing.finish()
    found = pairing.drift([RouterEvidence(router=tuned[0].router)])
    assert found["converted.gate"].same_sets.value == 1
    assert found["converted.gate"].tokens == 40


def test_a_router_that_is_not_verified_has_no_drift(tmp_path: Path) -> None:
    store, routers = saved(tmp_path)
    pairing = Pairing(store, routers, ["base.gate"], DOCUMENTS)
    tuned = renamed(record(0, 20, False), "base.gate", verified=False)
    pairing.update(tuned)
    assert pairing.drift([RouterEvidence(router=tuned.router)]) == {}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"layer": 7}, "layer"),
        ({"kind": "hash"}, "kind"),
        ({"hidden_size": 5}, "hidden size"),
        ({"score_columns": 8}, "larger one first"),
    ],
)
def test_other_routers_are_refused(tmp_path: Path, facts: dict[str, object], words: str) -> None:
    store, routers = saved(tmp_path)
    pairing = Pairing(store, routers, ["base.gate"], DOCUMENTS)
    with pytest.raises(ComparisonError, match=words):
        pairing.update(renamed(record(0, 20, False), "base.gate", **facts))


def test_fewer_experts_under_rows_that_are_no_ones_are_refused(tmp_path: Path) -> None:
    store, routers = saved(tmp_path)
    pairing = Pairing(store, routers, ["base.gate"], DOCUMENTS)
    one = renamed(record(0, 20, False), "base.gate", score_columns=4)
    other = torch.randn(4, one.gate.weight.shape[1], generator=torch.Generator().manual_seed(5))
    with pytest.raises(ComparisonError, match="not to be found among the base's"):
        pairing.update(replace(one, gate=replace(one.gate, weight=other)))


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    store, routers = saved(tmp_path)
    with pytest.raises(ComparisonError, match="1 routers and the tuned model 2"):
        Pairing(store, routers, ["a", "b"], DOCUMENTS)
    pairing = Pairing(store, routers, ["base.gate"], DOCUMENTS)
    with pytest.raises(ComparisonError, match="other tokens"):
        pairing.update(renamed(record(1, 20, False), "base.gate"))
    pairing.flush()
    with pytest.raises(ComparisonError, match="other tokens"):
        pairing.finish()
    pairing.flush()
    with pytest.raises(ComparisonError, match="other tokens"):
        pairing.update(renamed(record(0, 20, False), "base.gate"))
