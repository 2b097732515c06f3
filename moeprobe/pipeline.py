"""The story on one screen: open -> find -> record -> summarise -> judge -> Result."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import load_model, load_tokenizer, skeleton
from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.checkpoint.provenance import describe_environment, describe_model
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.errors import CheckpointError, NotMoEError, OptionError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.experiments.run import run_experiments
from moeprobe.findings.baseline import compare, refuse_other_measurement, refuse_other_probe
from moeprobe.findings.evidence import Evidence, Experiments, RouterEvidence
from moeprobe.findings.result import Result, Unchecked, load_baseline
from moeprobe.findings.router import Router
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import Recipe, adapt, load_recipe
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.records.run import run_probe
from moeprobe.records.store import RecordStore
from moeprobe.routers.alone import read_alone
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.routers.weights import expert_weights, gate_weights
from moeprobe.statistics.collect import Collector

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def analyze(
    model: "str | Path | PreTrainedModel",
    *,
    tokenizer: "str | PreTrainedTokenizerBase | None" = None,
    recipe: str | Recipe = "full",
    probe: str | None = None,
    max_tokens: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    limits: Mapping[str, Mapping[str, float]] | None = None,
    baseline: str | Path | Result | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    save_records: str | Path | None = None,
    progress: bool = False,
    command: str = "",
) -> Result:
    """Measure and judge the routing of a checkpoint.

    Args:
        model: a hub id, a folder, or a loaded model (then ``tokenizer`` must be a loaded tokenizer).
        tokenizer: folder or hub id of the tokenizer, where the checkpoint has none.
        recipe: what to run: a name, a YAML file, or a Recipe.
        probe: texts to use instead of the recipe's: a text file, a folder, JSONL, or ``hub:org/name``.
        max_tokens: tokens of text to read instead of the recipe's.
        select, ignore: detectors by name, code or prefix.
        limits: detector name -> limit name -> value.
        baseline: an earlier result (a result.json or its folder) that the findings are held against.
        revision: branch, tag or commit of a hub checkpoint.
        dtype, device_map: as in transformers.
        trust_remote_code: run the model code that comes with the checkpoint. Dangerous.
        save_records: folder for the raw triples (safetensors), one file a batch.
        progress: show progress bars on stderr.
        command: the command line to print in the report.

    Raises:
        MoeprobeError: the checkpoint, the texts or an option cannot be used; the message says what to do.

    """
    started = time.time()
    recipe = adapt(
        recipe if isinstance(recipe, Recipe) else load_recipe(recipe),
        probe,
        max_tokens,
        select,
        ignore,
        limits,
    )
    detectors = choose(recipe.select, recipe.ignore)
    effective = resolve_limits(recipe.limits)
    before = load_baseline(baseline)

    def suits(model_type: str) -> None:
        recipe.refuse_other_model(model_type)
        if before is not None:
            refuse_other_measurement(before, model_type, recipe)

    documents = load_documents(recipe.probe.texts)
    bars = Progress(progress)

    checkpoint, live, reader, missing = _open(
        model, tokenizer, revision, dtype, device_map, trust_remote_code, progress, suits
    )
    vocabulary = int(live.get_input_embeddings().weight.shape[0])
    batches = make_batches(documents, reader, recipe.probe, vocabulary)
    read = batches.facts(recipe.probe.texts)
    if before is not None:
        refuse_other_probe(before, read)

    token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
    collector = Collector([d.source for d in batches.documents], token_ids, recipe.seed)
    gradient = GradientTest()
    store = RecordStore(Path(save_records)) if save_records else None
    sinks = [collector.update, gradient.update, *([store.update] if store else [])]

    def sink(record: Record) -> None:
        for take in sinks:
            take(record)

    recording = run_probe(live, bars.over(batches.batches, "probing"), sink, store.flush if store else lambda: None)

    headers = read_headers(checkpoint.shards) if checkpoint else {}
    gates = [with_stored_dtypes(gate, headers) for gate in _gates(recording, live.config)]
    sites = {site.path: site for site in recording.sites}
    ran = recording.failure is None
    seen = {gate.router.path: collector.activations(gate.router.path) if ran else None for gate in gates}
    experiments = Experiments()
    if ran:
        with bars.counting("loss tests") as tick:
            experiments = run_experiments(live, recording.sites, recording.routers, batches, seen, recipe, tick)
    evidence = Evidence(
        model_type=str(live.config.model_type),
        dtype=str(live.dtype).removeprefix("torch."),
        routers=[
            RouterEvidence(
                router=gate.router,
                weights=gate_weights(gate, vocabulary),
                experts=expert_weights(sites[gate.router.path], gate),
                activations=seen[gate.router.path],
            )
            for gate in gates
        ],
        experiments=experiments.model_copy(update={"gradient": gradient.found}),
        probe=read if ran else None,
    )
    judgement = judge(evidence, detectors, effective)
    if not ran and not judgement.findings:
        raise CheckpointError(
            f"Nothing could be checked: {recording.failure}, and the weights alone show no fault in the routers."
        )
    bars_used = {name: dict(limit) for name, limit in effective.items()}
    return Result(
        model=describe_model(checkpoint, live, [site.router for site in recording.sites]),
        evidence=evidence,
        checks=judgement.checks,
        findings=judgement.findings,
        not_checked=_not_checked(recording, missing, recipe),
        recipe=recipe.model_dump(),
        limits=bars_used,
        environment=describe_environment(live, command, datetime.fromtimestamp(started, UTC), time.time() - started),
        baseline=compare(before, judgement.checks, judgement.findings, bars_used) if before else None,
    )


def _open(
    model: "str | Path | PreTrainedModel",
    tokenizer: "str | PreTrainedTokenizerBase | None",
    revision: str | None,
    dtype: str,
    device_map: str | None,
    trust_remote_code: bool,
    progress: bool,
    suits: Callable[[str], None],
) -> "tuple[Checkpoint | None, PreTrainedModel, PreTrainedTokenizerBase, list[str]]":
    """The checkpoint (None for a model that was given loaded), the model, its tokenizer, missing biases.

    ``suits`` raises for a model type that cannot be analysed as asked; it is called before weights are read.
    """
    if not isinstance(model, str | Path):
        if tokenizer is None or isinstance(tokenizer, str):
            raise OptionError("A model that is already loaded needs its tokenizer: analyze(model, tokenizer=...).")
        suits(str(model.config.model_type))
        return None, model.eval(), tokenizer, []

    def look_first(opened: Checkpoint) -> None:
        _refuse_dense(opened, trust_remote_code=trust_remote_code)
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
        checkpoint, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, progress=progress
    )
    return checkpoint, loaded.model, reader, loaded.missing


def _refuse_dense(opened: Checkpoint, *, trust_remote_code: bool) -> None:
    """Look for routers in the model's skeleton, before any weight is fetched or read."""
    if not find_sites(skeleton(opened, trust_remote_code=trust_remote_code)):
        raise NotMoEError(
            f"{opened.source} ({opened.model_type}) is a dense model: no router was found in it. "
            "moeprobe inspects Mixture-of-Experts checkpoints."
        )


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
                gates.append(read_still(site, config, reason))
    return gates


def _not_checked(recording: Recording, missing: list[str], recipe: Recipe) -> list[Unchecked]:
    """What could not be looked at, and why."""
    found = [Unchecked(what=path, why=reason) for path, reason in recording.unread.items()]
    if recording.failure is not None:
        found.append(Unchecked(what="everything that needs a forward pass", why=recording.failure))
    found += [
        Unchecked(what=name, why="the checkpoint has no such tensor; transformers used zeros for it")
        for name in missing
    ]
    left_out = f"the recipe {recipe.name} leaves it out"
    if not recipe.scale.max_tokens:
        found.append(Unchecked(what="loss test of the routed branch", why=left_out))
    if not recipe.choice.max_tokens:
        found.append(Unchecked(what="loss test of the learned choice", why=left_out))
    return found


def routers(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> list[Router]:
    """Facts of every router of a checkpoint, from its config and weights, without a text.

    Raises:
        MoeprobeError: the checkpoint cannot be used, or none of its routers can be run alone.

    """
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        before_weights=partial(_refuse_dense, trust_remote_code=trust_remote_code),
    )
    live = load_model(
        checkpoint, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, progress=progress
    ).model
    headers = read_headers(checkpoint.shards)
    vocabulary, hidden = live.get_input_embeddings().weight.shape
    found, refused = [], ""
    for site in find_sites(live):
        try:
            gate = _read_without_text(site, live.config, hidden, vocabulary)
            found.append(with_stored_dtypes(gate, headers).router)
        except ValueError as error:
            refused = f"{site.path}: {error}"
    if not found:
        raise NotMoEError(f"No router of {model} can be read without a forward pass ({refused}); use analyze.")
    return found


def _read_without_text(site: Site, config: Any, hidden_size: int, vocabulary: int) -> Gate:
    """Measured alone where the router can run alone, else what its tensors and the config say."""
    try:
        return read_alone(site, config, hidden_size, vocabulary)
    except ValueError as error:
        return read_still(site, config, str(error))
