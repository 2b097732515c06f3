"""The story of ``gates``: open -> run the texts -> keep a sample of every router's logits -> try other gates on it."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.environment import source_date_epoch
from moeprobe.errors import CheckpointError, OptionError
from moeprobe.findings.gates import GateLayer, GateReport
from moeprobe.findings.result import Unchecked
from moeprobe.laboratory.alternatives import alternatives
from moeprobe.laboratory.controller import Plan, controller
from moeprobe.laboratory.sample import RouterSample, Samples
from moeprobe.measure import Measured, measure, not_read
from moeprobe.opened import open_model
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.progress import Progress
from moeprobe.recipe import ProbeRecipe
from moeprobe.records.record import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEAST_ROWS = 200
"""Rows that a router needs; below, shares of tokens mean little."""


def study_gates(
    model: "str | Path | PreTrainedModel",
    *,
    tokenizer: "str | PreTrainedTokenizerBase | None" = None,
    probe: str = "builtin",
    max_tokens: int | None = None,
    layers: Collection[int] = (),
    rows: int = 4096,
    plan: Plan | None = None,
    seed: int = 0,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
    command: str = "",
) -> GateReport:
    """Try other score functions and balance rules on the logits of a checkpoint.

    Args:
        model, tokenizer, revision, dtype, device_map, trust_remote_code, progress, command: as in ``analyze``.
        probe: texts: builtin, a text file, a folder, JSONL, or ``hub:org/name``.
        max_tokens: tokens of text to read; None reads as many as ``analyze`` does.
        layers: decoder layers to study; none named studies all.
        rows: rows of logits to keep of every router, a seeded sample of all tokens.
        plan: step, updates and batch of the balance rules; None takes their defaults.
        seed: drives the sample, the noise and the batches.

    Raises:
        MoeprobeError: the checkpoint, the texts or an option cannot be used; the message says what to do.

    """
    source_date_epoch()
    started = time.time()
    recipe = ProbeRecipe(texts=probe) if max_tokens is None else ProbeRecipe(texts=probe, max_tokens=max_tokens)
    documents = load_documents(recipe.texts)
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
    batches = make_batches(documents, opened.reader, recipe, opened.vocabulary)
    if batches.tokens < LEAST_ROWS:
        raise OptionError(
            f"The texts give {batches.tokens} tokens, and the laboratory needs {LEAST_ROWS}; "
            "give it more text with --probe or --max-tokens."
        )
    samples = Samples(rows, seed)

    def take(record: Record) -> None:
        if not layers or record.router.layer in layers:
            samples.update(record)

    measured = measure(opened, batches, seed, bars, [take])
    if not measured.ran:
        raise CheckpointError(
            f"The laboratory needs the logits of a forward pass, and {measured.recording.failure}; "
            "`moeprobe analyze` judges what the weights show."
        )
    _refuse_unknown(layers, measured)
    not_measured = [*not_read(measured.recording, opened.unloaded)]
    found = []
    with bars.counting("gates") as tick:
        for path, sample in samples.routers.items():
            if sample.logits.shape[0] < LEAST_ROWS:
                not_measured.append(Unchecked(what=path, why=_too_few(sample)))
            else:
                found.append(_layer(sample, plan or Plan(), seed))
            tick()
    if not found:
        why = not_measured[-1] if not_measured else None
        raise CheckpointError(
            "No router of this model shows logits that the laboratory can use"
            + (f" ({why.what}: {why.why})." if why else ".")
        )
    return GateReport(
        model=measured.model,
        dtype=opened.dtype,
        probe=batches.facts(recipe.texts),
        seed=seed,
        layers=found,
        not_measured=not_measured,
        environment=describe_environment(opened.live, command, started, time.time() - started),
    )


def _layer(sample: RouterSample, plan: Plan, seed: int) -> GateLayer:
    router, why = sample.gate.router, ""
    if router.kind == "hash":
        why = "a hash table chooses, so no bias can balance it"
    elif router.score_function is None:
        why = "none of the three score functions explains its weights"
    return GateLayer(
        router=router,
        tokens=sample.tokens,
        rows=sample.logits.shape[0],
        recomputed=sample.recomputed,
        alternatives=alternatives(sample, seed),
        controller=None if why else controller(sample, plan, seed),
        without_controller=why,
    )


def _too_few(sample: RouterSample) -> str:
    if not sample.logits.shape[0]:
        return "it shows no finite logits with all its slots used"
    return f"{sample.logits.shape[0]} usable rows, {LEAST_ROWS} are needed; read more text with --max-tokens"


def _refuse_unknown(layers: Collection[int], measured: Measured) -> None:
    """Do nothing if every layer that was named has a router.

    Raises:
        OptionError: one has none.

    """
    known = sorted({site.router.layer for site in measured.routers if site.router.layer is not None})
    missing = sorted(set(layers) - set(known))
    if missing:
        raise OptionError(
            f"No router in layer {', '.join(map(str, missing))}; this model has them in {', '.join(map(str, known))}."
        )
