"""The sample is bounded, seeded and without a preference."""

import torch

from moeprobe.laboratory.sample import Samples
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from tests.laboratory.samples import sample


def records(batches: int, rows: int) -> list[Record]:
    gate: Gate = sample(torch.zeros(1, 4)).gate
    made = []
    for batch in range(batches):
        logits = torch.arange(batch * rows, (batch + 1) * rows).float().unsqueeze(1).repeat(1, 4)
        made.append(
            Record(
                router=gate.router, logits=logits, experts=torch.zeros(rows, 2, dtype=torch.int64),
                weights=torch.ones(rows, 2), token_ids=None, positions=torch.arange(rows),
                documents=torch.full((rows,), batch), gate=gate,
            )
        )  # fmt: skip
    return made


def kept(most: int, seed: int = 0) -> torch.Tensor:
    samples = Samples(most, seed)
    for record in records(40, 50):
        samples.update(record)
    (one,) = samples.routers.values()
    assert one.tokens == 2000
    assert not one.recomputed
    return one.logits[:, 0]


def test_bounded_and_spread_over_everything() -> None:
    rows = kept(400)
    assert rows.shape[0] == 400
    assert rows.unique().numel() == 400
    # The mean of 400 of 0 to 1,999 has a standard error of 26.
    assert abs(float(rows.mean()) - 999.5) < 110


def test_seeded() -> None:
    assert torch.equal(kept(300), kept(300))
    assert not torch.equal(kept(300), kept(300, seed=1))
    assert set(kept(100).tolist()) < set(kept(300).tolist())


def test_rows_that_cannot_be_used_are_left_out() -> None:
    samples = Samples(100, 0)
    (record,) = records(1, 50)
    assert record.logits is not None
    record.logits[7, 2] = float("nan")
    record.experts[9, 1] = -1
    samples.update(record)
    (one,) = samples.routers.values()
    assert one.tokens == 50
    assert one.logits.shape == (48, 4)


def test_the_halves_are_apart() -> None:
    samples = Samples(1000, 0)
    samples.update(records(1, 501)[0])
    (one,) = samples.routers.values()
    first, second = one.halves()
    assert (first.shape[0], second.shape[0]) == (250, 251)
    assert not set(first[:, 0].tolist()) & set(second[:, 0].tolist())
