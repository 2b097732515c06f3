"""The story of ``diff``: record the base -> free it -> run the tuned model on the same tokens -> pair -> judge.

Either side may be a saved result with its records instead. One model is in memory at a time: the base's records
wait on the disk.
"""

import gc
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moeprobe.checkpoint.load import check_dtype
from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.environment import source_date_epoch
from moeprobe.errors import CheckpointError, ComparisonError, ParallelError
from moeprobe.findings.drift import Base
from moeprobe.findings.evidence import Evidence, RouterEvidence
from moeprobe.findings.result import Model, Result
from moeprobe.findings.router import Router
from moeprobe.findings.weights import ExpertWeights
from moeprobe.legible import legible
from moeprobe.measure import measure, not_read
from moeprobe.opened import Opened, open_model
from moeprobe.parallel import launch
from moeprobe.probes.agreement import disagreement
from moeprobe.probes.batches import Batches, make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import ProbeRecipe, Recipe, adapt, load_recipe
from moeprobe.records.saved import SavedRecords, load_saved
from moeprobe.records.store import RecordStore
from moeprobe.routers.find import find_sites
from moeprobe.routers.fingerprint import checksum_beside, fingerprints
from moeprobe.statistics.pairing import Pairing

DETECTORS = ("routing-drift",)
"""What a comparison judges unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models as far as it is known without running it (again).

    ``batches``, ``vocabulary`` (token -> id) and ``others``, the checksum of what is neither expert nor gate, are None
    where a saved result was read.
    """

    model: Model
    routers: list[RouterEvidence]
    records: SavedRecords
    documents: int
    saved: str | None = None
    batches: Batches | None = None
    vocabulary: dict[str, int] | None = None
    others: str | None = None


def diff(
    base: str | Path,
    tuned: str | Path,
    *,
    tokenizer: str | None = None,
    recipe: str | Recipe = "compare",
    probe: str | None = None,
    max_tokens: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    limits: Mapping[str, Mapping[str, float]] | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
    dtype: str = "auto",
    base_dtype: str | None = None,
    device_map: str | None = None,
    trust_remote_code: bool = False,
    allow_different_tokenizers: bool = False,
    progress: bool = False,
    command: str = "",
) -> Result:
    """Compare the routing of a model with that of the model that it was made from.

    Args:
        base, tuned: a hub id, a folder, or a saved result with records (its folder or its result.json).
        revision, dtype: of the tuned model; the base has its own revision, and its own dtype if that is given.
        allow_different_tokenizers: let both models read the token ids of the base's tokenizer.
        tokenizer, recipe, probe, max_tokens, select, ignore, limits, device_map, trust_remote_code, progress,
            command: as in ``analyze``. Beside a saved result, its own texts are read again.

    Returns:
        The result of the tuned model; its evidence holds the drift of every router, its findings judge it.

    Raises:
        ComparisonError: the two cannot be compared; the message says why.
        ParallelError: a launcher has started several processes.
        MoeprobeError: a checkpoint, the texts or an option cannot be used.

    """
    source_date_epoch()
    if launch.size() > 1:
        raise ParallelError("A comparison runs in one process; start it without torchrun or accelerate.")
    for name in (dtype, base_dtype or dtype):
        check_dtype(name)
    first, second = load_saved(base), load_saved(tuned)
    recipe = _recipe(recipe, first or second, probe, max_tokens, select, ignore, limits)
    detectors = choose(recipe.select, recipe.ignore)
    effective = resolve_limits(recipe.limits)
    bars = Progress(progress)
    common: dict[str, Any] = {
        "device_map": device_map,
        "trust_remote_code": trust_remote_code,
        "progress": progress,
        "suits": recipe.refuse_other_model,
    }

    with tempfile.TemporaryDirectory(prefix="moeprobe-") as scratch:
        if first is not None:
            reference = _saved_side(first, base)
        else:
            opened = open_model(base, tokenizer, revision=base_revision, dtype=base_dtype or dtype, **common)
            reference = _record(opened, recipe, Path(scratch) / "records", bars)
            del opened
            gc.collect()  # the modules of a model refer to each other
        if second is not None:
            result, pairing = _pair_saved(reference, second, tuned, command)
        else:
            opened = open_model(tuned, tokenizer, revision=revision, dtype=dtype, **common)
            result, pairing = _pair_live(reference, opened, recipe, bars, allow_different_tokenizers, command)

    drift = pairing.drift(result.evidence.routers)
    routers = [one.model_copy(update={"drift": drift.get(one.router.path)}) for one in result.evidence.routers]
    evidence = result.evidence.model_copy(update={"routers": routers})
    judgement = judge(evidence, detectors, effective)
    return result.model_copy(
        update={
            "evidence": evidence,
            "checks": judgement.checks,
            "findings": judgement.findings,
            "not_checked": [*result.not_checked, *pairing.unpaired()],
            "recipe": recipe.told(),
            "limits": {name: dict(limit) for name, limit in effective.items()},
            # What a saved result was held against, and by whose settings, says nothing about the comparison.
            "baseline": None,
            "settings": [],
        }
    )


def _recipe(
    recipe: str | Recipe,
    saved: Result | None,
    probe: str | None,
    max_tokens: int | None,
    select: Sequence[str],
    ignore: Sequence[str],
    limits: Mapping[str, Mapping[str, float]] | None,
) -> Recipe:
    """The recipe, with the texts of a saved result where there is one."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if saved is not None:
        try:
            texts = ProbeRecipe.model_validate(saved.recipe.get("probe", {}))
        except ValidationError as error:
            raise ComparisonError(
                f"The saved result of {saved.model.name} does not say what it has read: its recipe.probe is damaged; "
                "make it again with `moeprobe analyze --save-records`."
            ) from error
        chosen = chosen.model_copy(update={"probe": texts})
    return adapt(chosen, probe, max_tokens, select or chosen.select or DETECTORS, ignore, limits)


def _saved_side(result: Result, source: str | Path) -> Side:
    path = Path(os.path.expanduser(source))
    folder = path if path.is_dir() else path.parent
    routers, probe = result.evidence.routers, result.evidence.probe
    if probe is None:
        raise ComparisonError(f"{source} holds a result without activations; give the checkpoint itself.")
    records = SavedRecords(folder / "records", [one.router for one in routers], probe.tokens)
    return Side(result.model, routers, records, probe.documents, saved=legible(str(source)))


def _record(opened: Opened, recipe: Recipe, folder: Path, bars: Progress) -> Side:
    """Run the base and leave its records in ``folder``."""
    batches = make_batches(load_documents(recipe.probe.texts), opened.reader, recipe.probe, opened.vocabulary)
    store = RecordStore(folder)
    measured = measure(opened, batches, recipe.seed, bars, store=store)
    if not measured.ran:
        raise CheckpointError(f"The base cannot be compared with: {measured.recording.failure}.")
    if not any(one.activations for one in measured.routers):
        raise ComparisonError(f"No router of the base {measured.model.name} could be recorded; see moeprobe analyze.")
    records = SavedRecords(folder, [one.router for one in measured.routers], batches.tokens)
    vocabulary = dict(opened.reader.get_vocab())
    return Side(
        measured.model,
        measured.routers,
        records,
        len(batches.documents),
        batches=batches,
        vocabulary=vocabulary,
        others=checksum_beside(opened.live),
    )


def _pair_saved(base: Side, result: Result, source: str | Path, command: str) -> tuple[Result, Pairing]:
    """Read both models' records side by side."""
    tuned = _saved_side(result, source)
    experts = {one.router.path: one.experts for one in tuned.routers}
    pairing = Pairing(base.records, base.routers, list(experts), base.documents, lambda router: experts[router.path])
    for batch in range(len(tuned.records)):
        for path in tuned.records.gates:
            record = tuned.records.record(batch, path)
            if record is not None:
                pairing.update(record)
        pairing.flush()
    pairing.finish()
    evidence = result.evidence.model_copy(update={"base": _describe(base, "the same")})
    environment = result.environment.model_copy(update={"command": command or result.environment.command})
    return result.model_copy(update={"evidence": evidence, "environment": environment}), pairing


def _pair_live(
    base: Side, opened: Opened, recipe: Recipe, bars: Progress, other_tokenizer: bool, command: str
) -> tuple[Result, Pairing]:
    """Run the tuned model on the base's tokens, pairing its records with the base's as they come."""
    started = time.time()
    batches, words = _tokens(base, opened, recipe, other_tokenizer)
    sites = {site.path: site for site in find_sites(opened.live)}

    def experts(router: Router) -> ExpertWeights:
        return fingerprints(sites[router.path], router.experts)

    pairing = Pairing(base.records, base.routers, list(sites), base.documents, experts)
    measured = measure(opened, batches, recipe.seed, bars, [pairing.update], lambda _: pairing.flush())
    if not measured.ran:
        raise CheckpointError(f"The tuned model cannot be compared: {measured.recording.failure}.")
    pairing.finish()
    result = Result(
        model=measured.model,
        evidence=Evidence(
            model_type=measured.model.model_type,
            dtype=opened.dtype,
            routers=measured.routers,
            probe=batches.facts(recipe.probe.texts),
            base=_describe(base, words, checksum_beside(opened.live)),
            unread=opened.unread,
        ),
        checks=[],
        findings=[],
        not_checked=not_read(measured.recording, opened.unloaded),
        recipe={},
        limits={},
        environment=describe_environment(opened.live, command, started, time.time() - started),
    )
    return result, pairing


def _tokens(base: Side, opened: Opened, recipe: Recipe, other_tokenizer: bool) -> tuple[Batches, str]:
    """What the tuned model reads: the same tokens as the base; and in words whose tokenizer made them."""
    if base.batches is not None and other_tokenizer:
        largest = max(int(batch.input_ids.max()) for batch in base.batches)
        if largest >= opened.vocabulary:
            raise ComparisonError(
                f"The base's tokenizer gives token id {largest}, and the tuned model knows {opened.vocabulary} tokens; "
                "it cannot read the same tokens."
            )
        return base.batches, "both models read the tokens of the base's tokenizer"
    batches = make_batches(load_documents(recipe.probe.texts), opened.reader, recipe.probe, opened.vocabulary)
    if base.batches is None or base.vocabulary is None:
        return batches, "the same"  # the pairing compares every token with the saved ones
    differ = disagreement(base.batches, batches, base.vocabulary, dict(opened.reader.get_vocab()))
    if differ is not None:
        raise ComparisonError(
            f"The two tokenizers differ ({differ}), so the models do not read the same tokens; give the right one for "
            "both with --tokenizer, or let both read the base's tokens with --allow-different-tokenizers."
        )
    return batches, "the same"


def _describe(base: Side, tokenizer: str, others: str | None = None) -> Base:
    model = base.model
    return Base(
        source=model.source,
        name=model.name,
        revision=model.revision,
        dtype=model.dtype,
        saved=base.saved,
        tokenizer=tokenizer,
        others_same=None if base.others is None or others is None else base.others == others,
    )
