"""The story on one screen: open -> find -> record -> summarise -> judge -> Result."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from moeprobe.checkpoint.memory import parse_size
from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.errors import CheckpointError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.experiments.loss import no_loss, no_optimum
from moeprobe.experiments.run import run_experiments
from moeprobe.findings.baseline import compare, refuse_other_measurement, refuse_other_probe
from moeprobe.findings.evidence import Evidence, Experiments
from moeprobe.findings.result import Result, Unchecked, load_baseline
from moeprobe.measure import Opened, measure, not_read, open_model
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import Recipe, adapt, load_recipe
from moeprobe.records.store import RecordStore

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
    stream: bool | None = None,
    memory: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
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
        stream: read the layers from the disk one at a time; None does so where the weights exceed the memory.
        memory: how much may be used, such as "8GB", instead of what is free.
        announce: called with a sentence where the model is streamed.
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

    limit = None if memory is None else parse_size(memory)
    documents = load_documents(recipe.probe.texts)
    bars = Progress(progress)

    opened = open_model(
        model,
        tokenizer,
        revision=revision,
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        progress=progress,
        suits=suits,
        stream=stream,
        memory=limit,
        announce=announce,
    )
    batches = make_batches(documents, opened.reader, recipe.probe, opened.vocabulary)
    read = batches.facts(recipe.probe.texts)
    if before is not None:
        refuse_other_probe(before, read)

    gradient = GradientTest()
    store = RecordStore(Path(save_records)) if save_records else None
    measured = measure(opened, batches, recipe.seed, bars, [gradient.update], store=store)

    experiments = Experiments()
    if measured.ran and opened.layers is None:
        recording, seen = measured.recording, {one.router.path: one.activations for one in measured.routers}
        with bars.counting("loss tests") as tick:
            experiments = run_experiments(opened.live, recording.sites, recording.routers, batches, seen, recipe, tick)
    evidence = Evidence(
        model_type=measured.model.model_type,
        dtype=opened.dtype,
        routers=measured.routers,
        experiments=experiments.model_copy(update={"gradient": gradient.found}),
        probe=read if measured.ran else None,
    )
    judgement = judge(evidence, detectors, effective)
    if not measured.ran and not judgement.findings:
        raise CheckpointError(
            f"Nothing could be checked: {measured.recording.failure}, "
            "and the weights alone show no fault in the routers."
        )
    bars_used = {name: dict(limit) for name, limit in effective.items()}
    when = datetime.fromtimestamp(started, UTC)
    return Result(
        model=measured.model,
        evidence=evidence,
        checks=judgement.checks,
        findings=judgement.findings,
        not_checked=[*not_read(measured.recording, opened.unloaded), *_left_out(recipe, opened, measured.ran)],
        recipe=recipe.model_dump(),
        limits=bars_used,
        environment=describe_environment(opened.live, command, when, time.time() - started, opened.streamed),
        baseline=compare(before, judgement.checks, judgement.findings, bars_used) if before else None,
    )


def _left_out(recipe: Recipe, opened: Opened, ran: bool) -> list[Unchecked]:
    """The loss tests that were not run, and why."""
    model, left_out = opened.live, f"the recipe {recipe.name} leaves it out"
    streamed = (
        None if opened.layers is None or not ran else "the weights were streamed; every trial would read them all again"
    )
    tests = (
        ("loss test of the routed branch", recipe.scale.max_tokens, no_optimum(model) or streamed),
        ("loss test of the learned choice", recipe.choice.max_tokens, no_loss(model) or streamed),
    )
    return [Unchecked(what=what, why=why or left_out) for what, wanted, why in tests if why or not wanted]
