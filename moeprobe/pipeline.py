"""The story on one screen: open -> find -> record -> summarise -> judge -> Result."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.errors import CheckpointError, NotMoEError
from moeprobe.experiments.gradient import GradientTest
from moeprobe.experiments.run import run_experiments
from moeprobe.findings.evidence import Evidence, Experiments
from moeprobe.findings.result import Result, Unchecked
from moeprobe.findings.router import Router
from moeprobe.measure import measure, not_read, open_model, refuse_dense
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import ChoiceRecipe, Recipe, ScaleRecipe, adapt, load_recipe
from moeprobe.records.store import RecordStore
from moeprobe.routers.alone import read_alone
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes

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
    )
    batches = make_batches(documents, opened.reader, recipe.probe, opened.vocabulary)

    gradient = GradientTest()
    store = RecordStore(Path(save_records)) if save_records else None
    sinks = [gradient.update, *([store.update] if store else [])]
    measured = measure(opened, batches, recipe.seed, bars, sinks, store.flush if store else lambda: None)

    experiments = Experiments()
    if measured.ran:
        recording, seen = measured.recording, {one.router.path: one.activations for one in measured.routers}
        with bars.counting("loss tests") as tick:
            experiments = run_experiments(opened.live, recording.sites, recording.routers, batches, seen, recipe, tick)
    evidence = Evidence(
        model_type=measured.model.model_type,
        dtype=opened.dtype,
        routers=measured.routers,
        experiments=experiments.model_copy(update={"gradient": gradient.found}),
        probe=batches.facts(recipe.probe.texts) if measured.ran else None,
    )
    judgement = judge(evidence, detectors, effective)
    if not measured.ran and not judgement.findings:
        raise CheckpointError(
            f"Nothing could be checked: {measured.recording.failure}, "
            "and the weights alone show no fault in the routers."
        )
    when = datetime.fromtimestamp(started, UTC)
    return Result(
        model=measured.model,
        evidence=evidence,
        checks=judgement.checks,
        findings=judgement.findings,
        not_checked=[*not_read(measured.recording, opened.missing), *_left_out(recipe)],
        recipe=recipe.model_dump(),
        limits={name: dict(limit) for name, limit in effective.items()},
        environment=describe_environment(opened.live, command, when, time.time() - started),
    )


def _left_out(recipe: Recipe) -> list[Unchecked]:
    """The loss tests that the recipe does not run."""
    why = f"the recipe {recipe.name} leaves it out"
    tests: dict[str, ScaleRecipe | ChoiceRecipe] = {
        "loss test of the routed branch": recipe.scale,
        "loss test of the learned choice": recipe.choice,
    }
    return [Unchecked(what=what, why=why) for what, part in tests.items() if not part.max_tokens]


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
        before_weights=partial(refuse_dense, trust_remote_code=trust_remote_code),
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
