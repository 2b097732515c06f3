"""The steps that every command which runs a model shares: open it, record it, summarise what was seen."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import embedding_shape, load_model, load_tokenizer, skeleton
from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.checkpoint.provenance import describe_model
from moeprobe.errors import NotMoEError, OptionError, ParallelError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Model, Unchecked
from moeprobe.parallel.crew import Crew
from moeprobe.parallel.launch import Kind, own_device
from moeprobe.probes.batches import Batches
from moeprobe.progress import Progress
from moeprobe.records.record import Record
from moeprobe.records.recorder import GONE_AROUND, NEVER_REACHED, Recording, Sink
from moeprobe.records.run import probe_recording, run_probe
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.sightings import Sightings
from moeprobe.resume.snapshot import Snapshot
from moeprobe.routers.find import find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.routers.weights import expert_weights, gate_weights
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.questions import Questions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to run.

    ``checkpoint`` is None for a model that was given loaded; ``unloaded`` names what has no weights.
    """

    checkpoint: Checkpoint | None
    live: "PreTrainedModel"
    reader: "PreTrainedTokenizerBase"
    unloaded: list[Unchecked]

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return embedding_shape(self.live)[0]

    @property
    def dtype(self) -> str:
        """Dtype of the model, in torch's words."""
        return str(self.live.dtype).removeprefix("torch.")


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


def open_model(
    model: "str | Path | PreTrainedModel",
    tokenizer: "str | PreTrainedTokenizerBase | None",
    *,
    revision: str | None,
    dtype: str,
    device_map: str | None,
    trust_remote_code: bool,
    progress: bool,
    parallel: Kind = "data",
    suits: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open and load a checkpoint, or take a model that is already loaded.

    ``suits`` raises for a model type that cannot be used as asked; it is called before weights are read.

    Raises:
        MoeprobeError: it cannot be used; the message says what to do.

    """
    if not isinstance(model, str | Path):
        if tokenizer is None or isinstance(tokenizer, str):
            raise OptionError("A model that is already loaded needs its tokenizer: analyze(model, tokenizer=...).")
        suits(str(model.config.model_type))
        return Opened(None, model.eval(), tokenizer, [])

    def look_first(opened: Checkpoint) -> None:
        refuse_dense(opened, trust_remote_code=trust_remote_code)
        suits(opened.model_type)

    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tokenizer=tokenizer if isinstance(tokenizer, str) else None,
        before_weights=look_first,
    )
    reader = (
        load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
        if tokenizer is None or isinstance(tokenizer, str)
        else tokenizer
    )
    loaded = load_model(
        checkpoint,
        dtype=dtype,
        device_map=own_device(device_map, parallel),
        trust_remote_code=trust_remote_code,
        parallel=parallel,
        progress=progress,
    )
    unloaded = [
        Unchecked(what=name, why="the checkpoint has no such tensor; transformers used zeros for it")
        for name in loaded.missing
    ]
    unloaded += [Unchecked(what=part, why="this part of the checkpoint does not read text") for part in loaded.left_out]
    return Opened(checkpoint, loaded.model, reader, unloaded)


def refuse_dense(opened: Checkpoint, *, trust_remote_code: bool) -> None:
    """Look for routers in the model's skeleton, before any weight is fetched or read.

    Raises:
        NotMoEError: there are none.

    """
    if not find_sites(skeleton(opened, trust_remote_code=trust_remote_code)):
        raise NotMoEError(
            f"{opened.source} ({opened.model_type}) is a dense model: no router was found in it. "
            "moeprobe inspects Mixture-of-Experts checkpoints."
        )


def measure(
    opened: Opened,
    batches: Batches,
    seed: int,
    bars: Progress,
    sinks: Sequence[Sink] = (),
    flush: Callable[[int], None] = lambda _: None,
    *,
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
        sinks: who else gets every record, ``flush`` being called with the number of every batch.
        gradient: tries the backward pass of every router, if it is given.
        questions: asks what the experts do, if it is given.
        bookmark: where the progress is kept, and taken up.
        crew: the processes that share the batches; what this gives is what all of them have seen.

    """
    crew = crew or Crew()
    token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
    collector = Collector([document.source for document in batches.documents], token_ids, seed)
    recording = _record(opened, batches, bars, sinks, flush, collector, gradient, questions, bookmark, crew)
    live = opened.live
    headers = read_headers(opened.checkpoint.shards) if opened.checkpoint else {}
    gates = [with_stored_dtypes(gate, headers) for gate in every_gate(recording, live.config)]
    sites = {site.path: site for site in recording.sites}
    routers = [
        RouterEvidence(
            router=gate.router,
            weights=gate_weights(gate, opened.vocabulary),
            experts=expert_weights(sites[gate.router.path], gate),
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
    collector: Collector,
    gradient: GradientTest | None,
    questions: Questions | None,
    bookmark: Bookmark | None,
    crew: Crew,
) -> Recording:
    """Read this process's share of the batches, after those that an earlier run has read, and merge all shares."""
    takers: list[Sink] = []

    def sink(record: Record) -> None:
        for take in takers:
            take(record)

    recording = probe_recording(opened.live, sink)
    seen = Sightings(recording, collector, gradient, questions)
    if bookmark is not None:
        bookmark.resume(seen)
    done = bookmark.batches if bookmark else 0
    todo = [(number, batches.batches[number]) for number in crew.mine(len(batches))][done:]
    if todo and todo[0][0] and not done:
        # Routers are read on the first batch. Every process reads it, or their facts would differ.
        run_probe(recording, [(0, batches.batches[0])])
    takers += [seen.update, *sinks]

    def after(number: int) -> None:
        flush(number)
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
