"""Drops of the families that drop, against the routers' own masks."""

import pytest
import torch

import moeprobe
from moeprobe.statistics.capacity import CapacityStatistic
from moeprobe.statistics.observation import Observation
from tests.zoo.case import arguments, batch, build
from tests.zoo.odd import CASES

DROPPING = [case for case in CASES if case.name in ("switch_transformers", "nllb_moe")]


@pytest.mark.parametrize("case", DROPPING, ids=lambda case: case.name)
def test_measured_drops(case) -> None:  # type: ignore[no-untyped-def]
    model = build(case)
    ids, mask = batch()
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**arguments(case, model, ids, torch.ones_like(mask)))
    dropped = 0
    for record in recording.records:
        counted = CapacityStatistic(record.router, [1.0])
        counted.update(Observation(record))
        found = counted.value()
        slots = record.tokens * record.router.top_k
        assert found.assignments == slots
        assert found.simulated == []
        # A slot is dropped where its weight, or the whole one-hot row, was masked out.
        kept = int((record.experts >= 0).sum())
        assert found.measured == pytest.approx(1 - kept / slots)
        dropped += slots - kept
        if case.name == "switch_transformers":
            # Three tokens of a sequence fit into an expert of this model: the rest of its queue is dropped.
            first = record.logits.argmax(dim=-1)
            over = sum(
                max(int(n) - 3, 0) for d in record.documents.unique() for n in first[record.documents == d].bincount()
            )
            assert slots - kept == over
    assert dropped > 0
