"""Every fault and every look-alike, and how one of them is planted, analysed and taken out again."""

import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import moeprobe
from benchmarks.fault import Fault
from benchmarks.faults import bias, flat, later, numerics, scale, table
from benchmarks.lookalikes import HEALTHY, LOOKALIKES, Lookalike
from benchmarks.patient import Patient, Wound
from moeprobe.errors import MoeprobeError
from moeprobe.findings.result import Result
from moeprobe.probes.texts import load_documents
from moeprobe.recipe import ChoiceRecipe, ProbeRecipe, Recipe, ScaleRecipe

FAULTS: tuple[Fault, ...] = (
    *flat.FAULTS,
    *bias.FAULTS,
    *numerics.FAULTS,
    *scale.FAULTS,
    *table.FAULTS,
    *later.FAULTS,
)
__all__ = ["FAULTS", "HEALTHY", "LOOKALIKES", "Fault", "Lookalike", "disguise", "plant", "recipe_for"]

_LOSS_TOKENS = 2048
_CHOICE_TOKENS = 8192
_SHORT = 128
"""Longest document of a small probe: many short documents from every source instead of a few long ones."""


def recipe_for(tokens: int, loss: bool, texts: str = "builtin", length: int = 0) -> Recipe:
    """What an analysis of the benchmark runs."""
    longest = length or (512 if tokens > 4096 else _SHORT)
    return Recipe(
        name="benchmark",
        probe=ProbeRecipe(texts=texts, max_tokens=tokens, max_length=longest),
        scale=ScaleRecipe(max_tokens=_LOSS_TOKENS if loss else 0, max_length=_SHORT),
        choice=ChoiceRecipe(max_tokens=_CHOICE_TOKENS if loss else 0),
    )


def plant(fault: Fault, patient: Patient, strength: float, seed: int, tokens: int) -> dict[str, Any] | None:
    """Plant one fault, analyse, restore; None where the patient has no router that it fits.

    Which router and which experts follow from the names and the seed, not from the strength, so that the
    strengths of one seed differ in nothing else.
    """
    sites = fault.sites(patient)
    if not sites:
        return None
    rng = random.Random(f"{fault.full_name} {patient.name}")
    rng.shuffle(sites)
    site = sites[seed % len(sites)] if fault.scope == "layer" else patient.sites[0]
    rng = random.Random(f"{fault.full_name} {patient.name} {seed}")
    with patient.damaged() as stack:
        wound = Wound(patient, site, strength, rng, stack)
        demanded = fault.plant(wound) and fault.visible and tokens >= fault.tokens
        said = _analyze(patient, recipe_for(tokens, fault.loss))
    layer = site.layer if wound.layer is None else wound.layer
    first = min((s.layer for s in sites if s.layer is not None), default=None)
    return {
        "layers": [layer] if fault.scope == "layer" or wound.layer is not None else [None, first],
        "experts": wound.experts,
        "demanded": bool(demanded),
    } | said


def disguise(lookalike: Lookalike, patient: Patient, tokens: int, loss: bool = True) -> dict[str, Any] | None:
    """Apply one look-alike, analyse, restore; None where it does not fit the patient."""
    with ExitStack() as outer:
        texts = outer.enter_context(_texts(lookalike.source)) if lookalike.source else "builtin"
        stack = outer.enter_context(patient.damaged())
        if not lookalike.apply(patient, stack):
            return None
        return _analyze(patient, recipe_for(tokens, loss, texts, lookalike.length))


class _texts:  # noqa: N801
    """A JSONL file with the built-in documents of one source."""

    def __init__(self, source: str) -> None:
        self._lines = [
            json.dumps({"text": d.text, "source": d.source}) for d in load_documents("builtin") if d.source == source
        ]

    def __enter__(self) -> str:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "texts.jsonl"
        path.write_text("\n".join(self._lines), encoding="utf-8")
        return str(path)

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()


def _analyze(patient: Patient, recipe: Recipe) -> dict[str, Any]:
    started = time.perf_counter()
    said: dict[str, Any] = {"findings": [], "refused": "", "crashed": "", "failed": []}
    try:
        said |= _told(moeprobe.analyze(patient.model, tokenizer=patient.tokenizer, recipe=recipe))
    except MoeprobeError as error:
        said["refused"] = str(error)
    except Exception as error:  # a crash is a result of the benchmark, not its end
        said["crashed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return said | {"seconds": round(time.perf_counter() - started, 3)}


def _told(result: Result) -> dict[str, Any]:
    findings = [
        {
            "detector": f.detector,
            "layer": f.layer,
            "severity": f.severity,
            "cause": f.cause,
            "message": f.message,
            "experts": f.experts,
            "root": f.follows is None,
        }
        for f in result.findings
        if f.severity != "info" or f.follows is not None
    ]
    failed = sorted({f"{c.detector}: {c.reason}" for c in result.checks if c.verdict == "failed"})
    return {"findings": findings, "failed": failed}
