"""Streaming: when a model is read layer by layer, and one call that does so."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeprobe.checkpoint.load import Loaded
from moeprobe.checkpoint.memory import steady_memory
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.errors import StreamError
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batches
from moeprobe.records.budget import Budget, budget, refuse_too_many
from moeprobe.records.layer_stops import Keeper
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording, Sink
from moeprobe.records.replay import Replay
from moeprobe.records.single import arithmetic_of
from moeprobe.records.store import RecordStore
from moeprobe.records.stream import StreamedProbe
from moeprobe.routers.layout import layout_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Reading = Callable[[int, int, int, int], AbstractContextManager[Callable[[int, int], None]]]
"""Progress: given the bytes to read, the layers, and how many of both an earlier run has done, it is told both."""


@dataclass(frozen=True, eq=False)
class Layers:
    """A model whose layers are on the disk: how they are read, what it may take, and how its loading went."""

    stream: LayerStream
    budget: Budget
    loaded: Loaded


def open_stream(
    checkpoint: Checkpoint,
    empty: "PreTrainedModel",
    dtype: str,
    device: str | None,
    memory: int | None,
    *,
    trust_remote_code: bool,
    forced: bool,
    by_expert: bool | None,
    announce: Callable[[str], None],
) -> Layers | None:
    """Open a model so that its layers are read one at a time; None for a model that is to be loaded whole.

    Args:
        checkpoint: its files.
        empty: its skeleton, on the meta device.
        dtype, device: as in ``load_model``.
        memory: bytes that may be used; what is free without it.
        trust_remote_code: as in ``load_model``.
        forced: whether to stream a model that fits into the memory as well.
        by_expert: whether experts are read one at a time; None for what the memory suggests.
        announce: called with a sentence where something other than loading the whole model is done, or was tried.

    Raises:
        StreamError: it is ``forced``, and cannot be.
        CheckpointError: what stands outside of the layers cannot be loaded.

    """
    needs = None
    try:
        layout = layout_of(empty)
        needs = budget(empty, layout, dtype, memory, device)
        if not (forced or needs.exceeded):
            return None
        opened = _open_within(checkpoint, needs, dtype, device, trust_remote_code, by_expert)
    except StreamError as error:
        if forced:
            raise
        if needs is not None:
            announce(f"{error} The whole model is loaded instead.")
        return None
    announce(needs.announce(checkpoint.source, opened.stream.by_expert))
    return opened


def _open_within(
    checkpoint: Checkpoint,
    needs: Budget,
    dtype: str,
    device: str | None,
    trust_remote_code: bool,
    as_begun: bool | None,
) -> Layers:
    steady_memory()
    by_expert = needs.by_expert(as_begun)
    try:
        stream = LayerStream(checkpoint, layout_of, by_expert)
        loaded = stream.open(dtype, device, trust_remote_code)
        for path in stream.experts:
            arithmetic_of(stream.model.get_submodule(path))
    except StreamError:
        if not by_expert or as_begun or needs.needed(False) >= needs.memory:
            raise
        stream = LayerStream(checkpoint, layout_of, by_expert=False)
        loaded = stream.open(dtype, device, trust_remote_code)
    return Layers(stream, needs, loaded)


def stream_probe(
    layers: Layers,
    batches: Batches,
    sink: Sink,
    reading: Reading,
    store: RecordStore | None = None,
    keeper: Keeper | None = None,
) -> tuple[Recording, dict[str, ExpertWeights]]:
    """Record every batch, layer by layer; the streamed sibling of ``run_probe``.

    Args:
        layers: the model.
        batches: the probe.
        sink: gets every record, layer by layer, and within a layer in the order of the batches.
        reading: shows progress.
        store: keeps the records, batch by batch.
        keeper: keeps the progress, and takes up that of an earlier run.

    Returns:
        The recording, and by router path what the experts' weights showed while they were in memory.

    Raises:
        StreamError: the hidden states of the probe do not fit beside the weights.
        CheckpointError: a layer cannot be read, or the memory does not suffice.
        OutputError: the progress, or the records, cannot be written.

    """
    stream, paths = layers.stream, layers.stream.layout.layers
    replay: Replay | None = None

    def take(batch: int, record: Record) -> None:
        sink(record)
        if replay is not None:
            replay.update(batch, record)

    def fits(waiting: int) -> None:
        refuse_too_many(layers.budget, stream.by_expert, batches, stream.model.config, waiting)

    before, done = stream.store.bytes_read, keeper.layers if keeper else 0
    earlier = stream.bytes_of(paths[:done])
    with reading(stream.bytes_of(paths), len(paths), done, earlier) as tick:

        def finished(layer: int) -> None:
            tick(layer + 1, earlier + stream.store.bytes_read - before)

        probe = StreamedProbe(stream, batches.batches, take, fits, finished, keeper)
        if store is not None:
            replay = Replay(store, keeper.folder if keeper else None, probe.recording.gates)
        with replay or nullcontext():
            found = probe.run()
            if replay is not None and found.recording.failure is None:
                replay.finish()
    return found.recording, found.experts
