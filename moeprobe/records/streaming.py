"""Streaming: when a model is read layer by layer, and one call that does so."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from moeprobe.checkpoint.memory import return_freed_memory
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.errors import StreamError
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batches
from moeprobe.records.budget import Budget, budget, refuse_too_many
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording, Sink
from moeprobe.records.replay import Replay
from moeprobe.records.store import RecordStore
from moeprobe.records.stream import StreamedProbe
from moeprobe.routers.layout import layout_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Reading = Callable[[int, int], AbstractContextManager[Callable[[int, int], None]]]
"""Progress: given the bytes to read and the layers, it is told the layers done and the bytes read."""


def plan(
    checkpoint: Checkpoint,
    empty: "PreTrainedModel",
    dtype: str,
    device: str | None,
    memory: int | None,
    *,
    forced: bool,
    announce: Callable[[str], None],
) -> tuple[LayerStream | None, Budget | None]:
    """Decide whether to stream, and how; (None, None) for a model that is to be loaded whole.

    Raises:
        StreamError: it is ``forced``, and cannot be.

    """
    needs = None
    try:
        layout = layout_of(empty)
        needs = budget(empty, layout, dtype, memory, device)
        if not (forced or needs.exceeded):
            return None, None
        by_expert = needs.by_expert()
    except StreamError as error:
        if forced:
            raise
        if needs is not None:
            announce(f"{error} The whole model is loaded instead.")
        return None, None
    announce(needs.announce(checkpoint.source, by_expert))
    return_freed_memory()
    return LayerStream(checkpoint, layout_of, by_expert), needs


def stream_probe(
    stream: LayerStream,
    needs: Budget,
    batches: Batches,
    sink: Sink,
    reading: Reading,
    store: RecordStore | None = None,
) -> tuple[Recording, dict[str, ExpertWeights]]:
    """Record every batch, layer by layer; the streamed sibling of ``run_probe``.

    Args:
        stream: the model, its layers on the disk.
        needs: what it may take.
        batches: the probe.
        sink: gets every record, layer by layer, and within a layer in the order of the batches.
        reading: shows progress.
        store: keeps the records, batch by batch.

    Returns:
        The recording, and by router path what the experts' weights showed while they were in memory.

    Raises:
        StreamError: the hidden states of the probe do not fit beside the weights.
        CheckpointError: a layer cannot be read, or the memory does not suffice.

    """
    replay = Replay(store) if store else None

    def take(batch: int, record: Record) -> None:
        sink(record)
        if replay is not None:
            replay.update(batch, record)

    def fits(waiting: int) -> None:
        refuse_too_many(needs, stream.by_expert, batches, stream.model.config, waiting)

    with replay or nullcontext(), reading(stream.bytes_to_read, len(stream.layout.layers)) as tick:
        before = stream.store.bytes_read

        def done(layer: int) -> None:
            tick(layer + 1, stream.store.bytes_read - before)

        probe = StreamedProbe(stream, batches.batches, take, fits, done).run()
        if replay is not None and probe.recording.failure is None:
            replay.finish()
    return probe.recording, probe.experts
