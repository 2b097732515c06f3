"""Run a saved checkpoint in memory and streamed, and say where the two differ."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.load import load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batch
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.records.run import probe_recording, run_probe
from moeprobe.records.stream import Streamed, StreamedProbe
from moeprobe.routers.layout import layout_of
from moeprobe.routers.weights import expert_weights

LENGTHS = (16, 11, 13)


def token_batches(highest: int = 250) -> list[Batch]:
    """Batches of three rows and different lengths, with padding."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(3, highest, (3, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 4 :] = 0
        made.append(Batch(ids, mask, mask.bool(), [3 * number + row for row in range(3)], ["a"] * 3))
    return made


def opened(folder: Path, by_expert: bool, arithmetic: str | None = None) -> LayerStream:
    stream = LayerStream(open_checkpoint(folder), layout_of, by_expert)
    stream.open("auto", None, trust_remote_code=False)
    if arithmetic is not None:
        stream.model.set_experts_implementation(arithmetic)
    return stream


class Whole:
    """What a run in memory shows."""

    def __init__(self, folder: Path, arithmetic: str | None = None) -> None:
        model = load_model(open_checkpoint(folder), experts_implementation=arithmetic).model
        self.batches = token_batches()
        self.records: list[Record] = []
        self.recording: Recording = probe_recording(model, self.records.append)
        run_probe(self.recording, enumerate(self.batches))
        gates = {gate.router.path: gate for gate in self.recording.gates}
        self.experts: dict[str, ExpertWeights] = {
            site.path: expert_weights(site, gates[site.path]) for site in self.recording.sites if site.path in gates
        }

    def unlike(self, stream: LayerStream) -> list[str]:
        """Where a streamed run differs, bit by bit."""
        found: dict[int, list[Record]] = {}
        run = StreamedProbe(
            stream, self.batches, lambda batch, record: found.setdefault(batch, []).append(record)
        ).run()
        order = [record for batch in range(len(self.batches)) for record in found.get(batch, [])]
        unlike = self._facts(run)
        if len(order) != len(self.records):
            return [*unlike, f"{len(order)} records instead of {len(self.records)}"]
        for mine, other in zip(self.records, order, strict=True):
            unlike += [f"{mine.router.path}: {what}" for what in differences(mine, other)]
        return unlike

    def _facts(self, run: Streamed) -> list[str]:
        unlike = [f"{path}: experts" for path, facts in self.experts.items() if run.experts.get(path) != facts]
        if (run.recording.failure, run.recording.unread) != (self.recording.failure, self.recording.unread):
            unlike.append("what was read")
        return unlike


def differences(one: Record, other: Record) -> list[str]:
    """Names of the fields that are not equal bit for bit."""
    pairs: dict[str, tuple[Any, Any]] = {
        entry.name: (getattr(one, entry.name), getattr(other, entry.name)) for entry in fields(one)
    }
    pairs |= {
        f"gate.{entry.name}": tuple(getattr(r.gate, entry.name) for r in (one, other)) for entry in fields(one.gate)
    }
    del pairs["gate"]
    return [name for name, (mine, theirs) in pairs.items() if not equal(mine, theirs)]


def equal(mine: Any, theirs: Any) -> bool:
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return bool(mine == theirs)
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        return False
    same = mine == theirs
    return bool((same | (mine != mine) & (theirs != theirs)).all())  # NaN is equal to NaN here
