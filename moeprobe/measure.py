"""The steps that every command which runs a model shares: open it, record it, summarise what was seen."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import DEVICE_MAPS, embedding_shape, load_model, load_tokenizer, skeleton
from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.checkpoint.provenance import describe_model
from moeprobe.errors import NotMoEError, OptionError
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Model, Unchecked
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batches
from moeprobe.progress import Progress
from moeprobe.records.record import Record
from moeprobe.records.recorder import GONE_AROUND, NEVER_REACHED, Recording, Sink
from moeprobe.records.run import run_probe
from moeprobe.records.store import RecordStore
from moeprobe.records.streaming import Layers, open_stream, stream_probe
from moeprobe.routers.find import find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.routers.weights import expert_weights, gate_weights
from moeprobe.statistics.collect import Collector

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to run.

    ``checkpoint`` is None for a model that was given loaded; ``unloaded`` names what has no weights. ``layers`` is
    set where they are on the disk.
    """

    checkpoint: Checkpoint | None
    live: "PreTrainedModel"
    reader: "PreTrainedTokenizerBase"
    unloaded: list[Unchecked]
    layers: Layers | None = None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return embedding_shape(self.live)[0]

    @property
    def dtype(self) -> str:
        """Dtype of the model, in torch's words."""
        return str(self.live.dtype).removeprefix("torch.")

    @property
    def streamed(self) -> Literal["layer", "expert"] | None:
        """What was in memory at a time; None where the whole model is."""
        if self.layers is None:
            return None
        return "expert" if self.layers.stream.by_expert else "layer"


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
    suits: Callable[[str], None] = lambda _: None,
    stream: bool | None = False,
    memory: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open and load a checkpoint, or take a model that is already loaded.

    ``suits`` raises for a model type that cannot be used as asked; it is called before weights are read. ``stream``
    leaves the layers on the disk; None does so where they exceed ``memory`` bytes (what is free without it), and says
    so to ``announce``.

    Raises:
        MoeprobeError: it cannot be used; the message says what to do.

    """
    if not isinstance(model, str | Path):
        if tokenizer is None or isinstance(tokenizer, str):
            raise OptionError("A model that is already loaded needs its tokenizer: analyze(model, tokenizer=...).")
        if stream:
            raise OptionError("A model that is already loaded cannot be streamed; give its folder or hub id.")
        suits(str(model.config.model_type))
        return Opened(None, model.eval(), tokenizer, [])

    if stream and device_map in DEVICE_MAPS:
        raise OptionError(f"--stream runs on one device; give cpu or cuda:0 as --device-map, not {device_map}.")
    empty: list[PreTrainedModel] = []

    def look_first(opened: Checkpoint) -> None:
        empty.append(refuse_dense(opened, trust_remote_code=trust_remote_code))
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
    layers = None
    if stream or (stream is None and device_map in (None, "cpu")):
        layers = open_stream(
            checkpoint,
            empty.pop(),
            dtype,
            device_map,
            memory,
            trust_remote_code=trust_remote_code,
            forced=bool(stream),
            announce=announce,
        )
    loaded = (
        load_model(
            checkpoint, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, progress=progress
        )
        if layers is None
        else layers.loaded
    )
    unloaded = [
        Unchecked(what=name, why="the checkpoint has no such tensor; transformers used zeros for it")
        for name in loaded.missing
    ]
    unloaded += [Unchecked(what=part, why="this part of the checkpoint does not read text") for part in loaded.left_out]
    return Opened(checkpoint, loaded.model, reader, unloaded, layers)


def refuse_dense(opened: Checkpoint, *, trust_remote_code: bool) -> "PreTrainedModel":
    """Look for routers in the model's skeleton, before any weight is fetched or read; returns the skeleton.

    Raises:
        NotMoEError: there are none.

    """
    empty = skeleton(opened, trust_remote_code=trust_remote_code)
    if not find_sites(empty):
        raise NotMoEError(
            f"{opened.source} ({opened.model_type}) is a dense model: no router was found in it. "
            "moeprobe inspects Mixture-of-Experts checkpoints."
        )
    return empty


def measure(
    opened: Opened,
    batches: Batches,
    seed: int,
    bars: Progress,
    sinks: Sequence[Sink] = (),
    flush: Callable[[], None] = lambda: None,
    store: RecordStore | None = None,
) -> Measured:
    """Record every batch and summarise it, router by router.

    Args:
        opened: the model.
        batches: what it reads.
        seed: drives the noise and the shuffles of the statistics.
        bars: progress.
        sinks: who else gets every record, ``flush`` being called after every batch. From a streamed model they come
            layer by layer, and ``flush`` is not called.
        store: keeps all records, batch by batch in either case.

    """
    token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
    collector = Collector([document.source for document in batches.documents], token_ids, seed)

    def sink(record: Record) -> None:
        for take in (collector.update, *sinks):
            take(record)

    live = opened.live
    experts: dict[str, ExpertWeights] = {}
    if opened.layers is not None:
        recording, experts = stream_probe(opened.layers, batches, sink, bars.reading, store)
    else:
        sinks = [*sinks, store.update] if store else sinks
        recording = run_probe(live, bars.over(batches.batches, "probing"), sink, store.flush if store else flush)
    headers = read_headers(opened.checkpoint.shards) if opened.checkpoint else {}
    gates = [with_stored_dtypes(gate, headers) for gate in _gates(recording, live.config)]
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


def _gates(recording: Recording, config: Any) -> list[Gate]:
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
