"""The steps that every command which runs an opened model shares: record it, summarise what was seen."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.provenance import describe_model
from moeprobe.checkpoint.token_ids import reached_ids
from moeprobe.experiments.gradient import GradientTest
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import NEEDS_FORWARD, Model, Unchecked
from moeprobe.findings.weights import ExpertWeights
from moeprobe.opened import Opened
from moeprobe.parallel.crew import Crew
from moeprobe.probes.batches import Batches
from moeprobe.progress import Progress
from moeprobe.recorded import Counters, record, stream
from moeprobe.records.again import read_again
from moeprobe.records.recorder import GONE_AROUND, NEVER_REACHED, Recording, Sink
from moeprobe.records.store import RecordStore
from moeprobe.resume.bookmark import Bookmark
from moeprobe.routers.foreign import with_foreign_ties
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.routers.weights import expert_weights, gate_weights
from moeprobe.routers.wrapped import inner
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.questions import Questions


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
    announce: Callable[[str], None] = lambda _: None,
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
        bookmark: where the progress is kept, and taken up.
        crew: the processes that share the batches; what this gives is what all of them have seen. One process alone
            streams a model.
        announce: called with a sentence if no progress can be kept.

    """
    token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
    collector = Collector([document.source for document in batches.documents], token_ids, seed)
    experts: dict[str, ExpertWeights] = {}
    counters = Counters(collector, gradient, questions)
    if opened.layers is None:
        recording = record(opened, batches, bars, counters, sinks, flush, store, bookmark, crew or Crew())
    else:
        recording, experts = stream(opened, opened.layers, batches, bars, counters, sinks, store, bookmark, announce)
    live = opened.live
    headers = read_headers(opened.checkpoint.shards) if opened.checkpoint else {}
    gates = [with_stored_dtypes(gate, headers) for gate in every_gate(recording, live.config)]
    sites = {site.path: site for site in recording.sites}
    for gate in gates:
        if gate.router.path not in experts:
            experts[gate.router.path] = expert_weights(sites[gate.router.path], gate)
    experts = with_foreign_ties(
        experts, gates, sites, partial(read_again, opened.layers.stream if opened.layers else None)
    )

    @cache
    def ids() -> frozenset[int] | None:
        return reached_ids(opened.reader, live.config)

    routers = [
        RouterEvidence(
            router=gate.router,
            weights=gate_weights(gate, opened.vocabulary, ids),
            experts=experts[gate.router.path],
            activations=collector.activations(gate.router.path) if recording.failure is None else None,
        )
        for gate in gates
    ]
    model = describe_model(
        opened.checkpoint, live, [inner(site.router) for site in recording.sites], type(inner(live)).__name__
    )
    return Measured(recording, gates, routers, model)


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
        found.append(Unchecked(what=NEEDS_FORWARD, why=recording.failure))
    return [*found, *unloaded]
