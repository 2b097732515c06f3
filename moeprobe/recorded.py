"""Record a probe: batch by batch with the model in memory, or layer by layer with the model on the disk."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from moeprobe.errors import ParallelError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.findings.weights import ExpertWeights
from moeprobe.opened import Opened
from moeprobe.parallel.crew import Crew
from moeprobe.probes.batches import Batches
from moeprobe.progress import Progress
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording, Sink
from moeprobe.records.run import probe_recording, run_probe
from moeprobe.records.store import RecordStore
from moeprobe.records.streaming import Layers, stream_probe
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.by_layer import LayerProgress
from moeprobe.resume.sightings import Sightings
from moeprobe.resume.snapshot import Snapshot
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.questions import Questions


class Counters(NamedTuple):
    """What every record is counted into; None where nothing of that kind is asked."""

    collector: Collector
    gradient: GradientTest | None = None
    questions: Questions | None = None

    def sighted(self, recording: Recording) -> Sightings:
        """The counters with the recording that feeds them."""
        return Sightings(recording, *self)


def record(
    opened: Opened,
    batches: Batches,
    bars: Progress,
    counters: Counters,
    sinks: Sequence[Sink],
    flush: Callable[[int], None],
    store: RecordStore | None,
    bookmark: Bookmark | None,
    crew: Crew,
) -> Recording:
    """Read this process's share of the batches, after those that an earlier run has read, and merge all shares."""
    takers: list[Sink] = []
    recording = probe_recording(opened.live, _to_all(takers))
    seen = counters.sighted(recording)
    if bookmark is not None:
        bookmark.resume(seen)
    done = bookmark.batches if bookmark else 0
    todo = [(number, batches.batches[number]) for number in crew.mine(len(batches))][done:]
    if todo and todo[0][0] and not done:
        # Routers are read on the first batch. Every process reads it, or their facts would differ.
        run_probe(recording, [(0, batches.batches[0])])
    takers += [seen.update, *sinks, *([store.update] if store else [])]

    def after(number: int) -> None:
        flush(number)
        if store is not None:
            store.flush(number)
        if bookmark is not None:
            bookmark.keep(seen)
        crew.watch()

    if recording.failure is None:
        run_probe(recording, bars.over(todo, "probing", done), after)
    if crew.shares > 1:
        try:
            seen.gather(map(Snapshot.parse, crew.gather(seen.snapshot().dump())))
        except ValueError as error:
            raise ParallelError(
                f"The processes have read different facts about the router {error}, on different batches; "
                "analyse this checkpoint in one process."
            ) from error
    return recording


def stream(
    opened: Opened,
    layers: Layers,
    batches: Batches,
    bars: Progress,
    counters: Counters,
    sinks: Sequence[Sink],
    store: RecordStore | None,
    bookmark: Bookmark | None,
    announce: Callable[[str], None],
) -> tuple[Recording, dict[str, ExpertWeights]]:
    """Read all batches layer by layer, after the layers that an earlier run has finished.

    Returns:
        The recording, and by router path what the experts' weights showed.

    """
    sink = _to_all([*(each.update for each in counters if each is not None), *sinks])
    keeper = LayerProgress(bookmark, counters.sighted, opened.live.device, announce) if bookmark else None
    return stream_probe(layers, batches, sink, bars.reading, store, keeper)


def _to_all(takers: Sequence[Sink]) -> Sink:
    """A sink that hands every record on."""

    def sink(record: Record) -> None:
        for take in takers:
            take(record)

    return sink
