"""The steps that every command which runs an opened model shares: record it, summarise what was seen."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.provenance import describe_model
from moeprobe.errors import ParallelError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Model, Unchecked
from moeprobe.findings.weights import ExpertWeights
from moeprobe.opened import Opened
from moeprobe.parallel.crew import Crew
from moeprobe.probes.batches import Batches
from moeprobe.progress import Progress
from moeprobe.records.record import Record
from moeprobe.records.recorder import GONE_AROUND, NEVER_REACHED, Recording, Sink
from moeprobe.records.run import probe_recording, run_probe
from moeprobe.records.store import RecordStore
from moeprobe.records.streaming import stream_probe
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.sightings import Sightings
from moeprobe.resume.snapshot import Snapshot
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.routers.weights import expert_weights, gate_weights
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.questions import Questions

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class Measured:
    """What one run over the probe showed; ``routers`` holds also those that could not be recorded."""

    recording: Recording
    gates: list[Gate]
    routers: list[RouterEvidence]
    model: Model

    @property
    def ran(self) -> bool:
        """Whether the forward pass went through."""
        return self.recording.failure is None


def measure(
    opened: Opened,
    batches: Batches,
    seed: int,
    bars: Progress,
    sinks: Sequence[Sink] = (),
    flush: Callable[[int], None] = lambda _: None,
    *,
    store: RecordStore | None = None,
    gradient: GradientTest | None = None,
    questions: Questions | None = None,
    bookmark: Bookmark | None = None,
    crew: Crew | None = None,
) -> Measured:
    """Record every batch and summarise it, router by router.

    Args:
        opened: the model.
        batches: what it reads.
        seed: drives the noise and the shuffles of the statistics.
        bars: progress.
        sinks: who else gets every record, ``flush`` being called with the number of every batch. From a streamed model
            they come layer by layer, and ``flush`` is not called.
        store: keeps all records, batch by batch in either case.
        gradient: tries the backward pass of every router, if it is given.
        questions: asks what the experts do, if it is given.
        bookmark: where the progress is kept, and taken up; a streamed model has none.
        crew: the processes that share the batches; what this gives is what all of them have seen. One process alone
            streams a model.

    """
    token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
    collector = Collector([document.source for document in batches.documents], token_ids, seed)
    experts: dict[str, ExpertWeights] = {}
    if opened.layers is None:
        recording = _record(
            opened, batches, bars, sinks, flush, store, collector, gradient, questions, bookmark, crew or Crew()
        )
    else:
        counting = [each.update for each in (collector, questions, gradient) if each is not None]
        sink = _to_all([*counting, *sinks])
        recording, experts = stream_probe(opened.layers, batches, sink, bars.reading, store)
    live = opened.live
    headers = read_headers(opened.checkpoint.shards) if opened.checkpoint else {}
    gates = [with_stored_dtypes(gate, headers) for gate in every_gate(recording, live.config)]
    sites = {site.path: site for site in recording.sites}
    routers = [
        RouterEvidence(
            router=gate.router,
            weights=gate_weights(gate, opened.vocabulary),
            experts=experts.get(gate.router.path) or expert_weights(sites[gate.router.path], gate),
            activations=collector.activations(gate.router.path) if recording.failure is None else None,
        )
        for gate in gates
    ]
    model = describe_model(opened.checkpoint, live, [site.router for site in recording.sites])
    return Measured(recording, gates, routers, model)


def _record(
    opened: Opened,
    batches: Batches,
    bars: Progress,
    sinks: Sequence[Sink],
    flush: Callable[[int], None],
    store: RecordStore | None,
    collector: Collector,
    gradient: GradientTest | None,
    questions: Questions | None,
    bookmark: Bookmark | None,
    crew: Crew,
) -> Recording:
    """Read this process's share of the batches, after those that an earlier run has read, and merge all shares."""
    takers: list[Sink] = []
    recording = probe_recording(opened.live, _to_all(takers))
    seen = Sightings(recording, collector, gradient, questions)
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


def _to_all(takers: Sequence[Sink]) -> Sink:
    """A sink that hands every record on."""

    def sink(record: Record) -> None:
        for take in takers:
            take(record)

    return sink


def every_gate(recording: Recording, config: Any) -> list[Gate]:
    """Every router's facts and tensors; one that could not be recorded is read without running it."""
    recorded = {gate.router.path: gate for gate in recording.gates}
    gates = []
    for site in recording.sites:
        if site.path in recorded:
            gates.append(recorded[site.path])
        else:
            reason = recording.failure or recording.unread.get(site.path, "the router was never called")
            with suppress(ValueError):
                gate = read_still(site, config, reason)
                ran = recording.failure is None
                facts = {"bypassed": ran and reason == GONE_AROUND, "reached": not ran or reason != NEVER_REACHED}
                gates.append(gate.with_router(gate.router.model_copy(update=facts)))
    return gates


def not_read(recording: Recording, unloaded: Sequence[Unchecked]) -> list[Unchecked]:
    """What could not be recorded, and what the checkpoint lacks."""
    found = [Unchecked(what=path, why=reason) for path, reason in recording.unread.items()]
    if recording.failure is not None:
        found.append(Unchecked(what="everything that needs a forward pass", why=recording.failure))
    return [*found, *unloaded]
