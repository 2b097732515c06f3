"""The story on one screen: open -> find -> record -> summarise -> judge -> Result."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moeprobe.checkpoint.memory import parse_size
from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.checkpoint.spread import is_spread
from moeprobe.detectors.nearly import nearly, said
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.environment import source_date_epoch
from moeprobe.experiments.gradient import GradientTest
from moeprobe.experiments.loss import no_loss, no_optimum
from moeprobe.experiments.run import run_experiments
from moeprobe.findings.baseline import compare, refuse_other_measurement, refuse_other_probe
from moeprobe.findings.evidence import Evidence, Experiments
from moeprobe.findings.result import Model, Result, Unchecked, load_baseline
from moeprobe.measure import measure, not_read
from moeprobe.opened import Opened, open_model, refuse_streaming
from moeprobe.parallel.crew import Crew
from moeprobe.parallel.launch import Kind
from moeprobe.probes.batches import make_batches
from moeprobe.probes.spelling import spelled
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import Recipe, adapt, load_recipe
from moeprobe.records.store import RecordStore
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.identity import asked, read
from moeprobe.resume.shared import SharedWork
from moeprobe.routers.find import find_sites
from moeprobe.statistics.questions import Questions
from moeprobe.weights_scan import refuse_what_runs, scan

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
    weights_only: bool = False,
    save_records: str | Path | None = None,
    keep_progress: str | Path | None = None,
    restart: bool = False,
    parallel: Kind = "data",
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
        weights_only: read only the routers' tensors from the files, load and run nothing.
        stream: read the layers from the disk one at a time; None does so where the weights exceed the memory.
        memory: how much may be used, such as "8GB", instead of what is free.
        announce: called with a sentence where the model is streamed.
        save_records: folder for the raw triples (safetensors), one file a batch.
        keep_progress: folder in which everything done so far is kept after every batch and loss test (of a streamed
            analysis: after every layer), for a checkpoint on disk. Called again with the same arguments, the analysis
            goes on from there. Remove it when the result is safe.
        restart: throw away what ``keep_progress`` holds.
        parallel: what several processes of torchrun or accelerate share: ``data`` (the batches), ``tensor`` or
            ``expert`` (the weights, as transformers spreads them). All of them return the same result.
        progress: show progress bars on stderr.
        command: the command line to print in the report.

    Raises:
        MoeprobeError: the checkpoint, the texts or an option cannot be used; the message says what to do.

    """
    source_date_epoch()  # refused now, not when all is measured
    if weights_only:
        given = {"--tokenizer": tokenizer, "--probe": probe, "--max-tokens": max_tokens, "--device-map": device_map}
        given |= {"--save-records": save_records, "--dtype": None if dtype == "auto" else dtype}
        refuse_what_runs(model, given | {"--stream": stream or None, "--memory": memory})
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

    bars, started = Progress(progress), time.time()

    def result(
        evidence: Evidence,
        model: Model,
        not_checked: list[Unchecked],
        opened: Opened | None = None,
        began: float = started,
        took: float | None = None,
        processes: int = 1,
    ) -> Result:
        judgement = judge(evidence, detectors, effective)
        bars_used = {name: dict(limit) for name, limit in effective.items()}
        close = nearly(before.evidence, judgement.findings, detectors, effective) if before else {}
        findings = [said(one, close.get(one.fingerprint)) for one in judgement.findings]
        seconds = time.time() - started if took is None else took
        live, streamed = (opened.live, opened.streamed) if opened else (None, None)
        return Result(
            model=model,
            evidence=evidence,
            checks=judgement.checks,
            findings=findings,
            not_checked=not_checked,
            recipe=recipe.told(),
            limits=bars_used,
            environment=describe_environment(live, command, began, seconds, processes, streamed),
            baseline=compare(before, judgement.checks, findings, bars_used, close) if before else None,
            weights_only=weights_only,
        )

    if weights_only:
        found = scan(str(model), revision=revision, bars=bars, suits=suits)
        evidence = Evidence(
            model_type=found.model.model_type, dtype=found.model.dtype, routers=found.routers, unread=found.unread
        )
        return result(evidence, found.model, found.not_checked)

    limit = None if memory is None else parse_size(memory)
    documents = load_documents(recipe.probe.texts)

    with Crew.join(parallel).together() as crew:
        if crew.size > 1 or parallel != "data":
            refuse_streaming(stream, memory)
            stream = False
        bookmark = Bookmark(Path(keep_progress), crew, restart) if keep_progress else None
        loading = {"revision": revision, "dtype": dtype, "device_map": device_map, "parallel": parallel}
        if bookmark is not None:
            bookmark.expect(asked(recipe, crew.size, save_records is not None, loading))
            bookmark.refuse_other_reading(stream)
        opened = open_model(
            model,
            tokenizer,
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            parallel=parallel,
            progress=progress,
            suits=suits,
            stream=stream,
            memory=limit,
            reading=bookmark.reading if bookmark else None,
            announce=announce,
        )
        crew.alike = is_spread(opened.live)
        batches = make_batches(documents, opened.reader, recipe.probe, opened.vocabulary)
        probe_read = batches.facts(recipe.probe.texts)
        if before is not None:
            refuse_other_probe(before, probe_read)
        if bookmark is not None:
            bookmark.expect(read(opened.checkpoint, batches, opened.live))
            bookmark.reading = opened.reading

        gradient = GradientTest()
        asks = recipe.specialisation.enabled
        questions = Questions(batches, recipe.specialisation, len(find_sites(opened.live))) if asks else None
        store = _store(save_records, crew, bookmark)
        measured = measure(
            opened,
            batches,
            recipe.seed,
            bars,
            store=store,
            gradient=gradient,
            questions=questions,
            bookmark=bookmark,
            crew=crew,
            announce=announce,
        )
        routers, specialisation = measured.routers, None
        if questions and measured.ran:
            routers, specialisation = questions.answered(measured.routers, spelled(opened.reader))
        experiments = Experiments()
        if measured.ran and opened.layers is None:
            recording, seen = measured.recording, {one.router.path: one.activations for one in measured.routers}
            work = SharedWork(crew, bookmark)
            with bars.counting("loss tests") as tick:
                experiments = run_experiments(
                    opened.live, recording.sites, recording.routers, batches, seen, recipe, tick, work
                )

    evidence = Evidence(
        model_type=measured.model.model_type,
        dtype=opened.dtype,
        routers=routers,
        specialisation=specialisation,
        experiments=experiments.model_copy(update={"gradient": gradient.found}),
        probe=probe_read if measured.ran else None,
        unread=opened.unread,
    )
    began, took = (bookmark.started, bookmark.seconds) if bookmark else (started, None)
    not_checked = [*not_read(measured.recording, opened.unloaded), *_left_out(recipe, opened, measured.ran)]
    return result(evidence, measured.model, not_checked, opened, began, took, crew.size)


def _store(folder: str | Path | None, crew: Crew, bookmark: Bookmark | None) -> RecordStore | None:
    """Where records go: those of each process's own batches, and those of earlier runs of the same analysis stay."""
    if folder is None or (crew.alike and not crew.leads):
        return None
    store = RecordStore(Path(folder), clean=crew.leads and not (bookmark and bookmark.continues))
    if not crew.alike:
        crew.meet()  # nobody writes before the folder is clean
    return store


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
