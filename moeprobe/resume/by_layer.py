"""By layer: the progress of a streamed analysis, of which every batch has passed some layers.

    .progress/
      layer-00017.safetensors               what the routers of this layer have shown, and the facts of all so far
      carried-00017-00003.safetensors       what the fourth batch takes along from it: its hidden states
      records/                              with --save-records: the raw triples so far

A layer counts as finished once its own file is there, which is written last. Hidden states of earlier layers go, unless
the model still needs them.
"""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from moeprobe.errors import ResumeError
from moeprobe.findings.weights import ExpertWeights
from moeprobe.records.carried import UnkeptError, pack, unpack
from moeprobe.records.layer_stops import Handover
from moeprobe.records.recorder import Recording
from moeprobe.resume.bookmark import Bookmark, forget, taking_up
from moeprobe.resume.sightings import Sightings
from moeprobe.resume.snapshot import Snapshot, read_snapshot, write_bytes


class LayerProgress:
    """Keeps what is done after every layer, and takes up what an earlier run has done; a ``Keeper`` of ``records``.

    Args:
        bookmark: of the analysis.
        sightings: everything that is counted, given the recording that is fed into it.
        device: on which the batches run.
        announce: called with a sentence if the progress of this model cannot be kept.

    Raises:
        ResumeError: what is there is damaged, or belongs to another analysis.

    """

    def __init__(
        self,
        bookmark: Bookmark,
        sightings: Callable[[Recording], Sightings],
        device: torch.device,
        announce: Callable[[str], None],
    ) -> None:
        self.folder = bookmark.folder / "records"
        self.experts: dict[str, ExpertWeights] = {}
        self._bookmark, self._sightings, self._announce = bookmark, sightings, announce
        self._device = device
        self._seen: Sightings | None = None
        self._snapshots: list[Snapshot] = []
        self._kept: set[str] = set()
        while bookmark.continues and (found := read_snapshot(self._layer(len(self._snapshots)))) is not None:
            self._take_up(found)
        self.layers = self._first = len(self._snapshots)

    def _take_up(self, found: Snapshot) -> None:
        with taking_up(self._layer(len(self._snapshots))):
            self._bookmark.accept(found.words)
            experts = json.loads(found.words["experts"])
            self.experts |= {path: ExpertWeights.model_validate(one) for path, one in experts.items()}
        self._snapshots.append(found)

    def begin(self, recording: Recording) -> None:
        """Put back what the finished layers have shown.

        Raises:
            ResumeError: it is damaged.

        """
        self._seen = self._sightings(recording)
        if not self._snapshots:
            return
        tensors = {name: tensor for one in self._snapshots for name, tensor in one.tensors.items()}
        with taking_up(self._layer(self._first - 1)):
            self._seen.restore(Snapshot(tensors, self._snapshots[-1].words))
        self._kept = set(recording.known.gates)

    def handover(self, layer: int, batch: int) -> Handover:
        """What a batch took along from a finished layer: NaN where nothing will use it.

        Raises:
            ResumeError: it is damaged.

        """
        path = self._carried(layer, batch)
        with taking_up(path):
            gave, shared = json.loads(self._snapshots[layer].words["carried"])[batch]
            stored = read_snapshot(path)
            tensors = None if stored is None else stored.tensors
            if tensors is None and layer in self._holds(self._first - 1):
                raise ValueError("gone")
            return Handover(unpack(gave, tensors, self._device), unpack(shared, tensors, self._device))

    def keep(
        self, layer: int, carried: Sequence[Handover], needed: Collection[int], experts: dict[str, ExpertWeights]
    ) -> None:
        """Keep what this layer has shown, and what the batches take along from it.

        Raises:
            OutputError: it cannot be written.
            ResumeError: the model needs what earlier runs have thrown away.
            UnkeptError: the model hands on what cannot be written down, or goes back to a layer.

        """
        assert self._seen is not None
        if layer != self.layers:
            raise UnkeptError("its layers run more than once")
        if self._first and any(one < self._first and one not in self._holds(self._first - 1) for one in needed):
            raise ResumeError("This model uses what it had in layers that are finished; begin anew with --restart.")
        told = []
        for batch, one in enumerate(carried):
            tensors: dict[str, torch.Tensor] = {}
            told.append([pack(one.gave, "gave", tensors), pack(one.shared, "shared", tensors)])
            write_bytes(self._carried(layer, batch), Snapshot(tensors, {}).dump())
        new = set(self._seen.recording.known.gates) - self._kept
        state = self._seen.snapshot(new)
        words = {
            "experts": json.dumps({path: one.model_dump(mode="json") for path, one in experts.items()}),
            "carried": json.dumps(told),
            "needed": json.dumps(sorted({*needed, layer})),
            **self._bookmark.stamp(),
        }
        write_bytes(self._layer(layer), Snapshot(state.tensors, {**state.words, **words}).dump())
        self._kept |= new
        self.layers += 1
        for file in self._bookmark.folder.glob("carried-*.safetensors"):
            if int(file.name.split("-")[1]) not in {*needed, layer}:
                file.unlink(missing_ok=True)

    def give_up(self, why: str) -> None:
        """Keep nothing from now on, and nothing that was kept."""
        self._announce(f"The progress of this analysis cannot be kept, since {why}; interrupted, it would begin again.")
        forget(self._bookmark.folder)

    def _holds(self, layer: int) -> set[int]:
        """Layers whose hidden states were kept when this one was finished."""
        with taking_up(self._layer(layer)):
            return set(json.loads(self._snapshots[layer].words["needed"]))

    def _layer(self, layer: int) -> Path:
        return self._bookmark.folder / f"layer-{layer:05d}.safetensors"

    def _carried(self, layer: int, batch: int) -> Path:
        return self._bookmark.folder / f"carried-{layer:05d}-{batch:05d}.safetensors"
