"""Synthetic drift between a healthy model and its base, and small changes to it."""

from typing import Any

from moeprobe.findings.drift import Base, BiasDrift, Drift
from moeprobe.findings.evidence import Evidence, RouterEvidence
from moeprobe.findings.numbers import Interval

from .synthetic import TOKENS, VOCABULARY, evidence, hashed, learned

BASE = Base(source="./base", name="base", revision=None, dtype="bfloat16")


def interval(value: float, around: float = 0.01) -> Interval:
    return Interval(value=value, low=value - around, high=value + around)


def drift(**facts: Any) -> Drift:
    """A gentle fine-tune: docs/routing-drift.md, 60 steps at 1e-4."""
    defaults: dict[str, Any] = {
        "tokens": TOKENS,
        "documents": 60,
        "overlap": interval(0.88),
        "same_sets": interval(0.64),
        "firm_sets": interval(0.78),
        "firm_overlap": interval(0.92),
        "weight_l1": interval(0.2),
        "load_tv": interval(0.034),
        "load_tv_floor": 0.0765,
        "logits": interval(0.17),
        "nonfinite": 0,
        "own_sets": interval(0.92),
        "rounding": 0.02,
        "bias": BiasDrift(largest=0.01, expert=3, spread=0.1),
        "table_rows": None,
        "table_changed": None,
        "renumbering": None,
        "shifts": [],
    }
    return Drift.model_validate(defaults | facts)


def drifted(layer: int = 0, **facts: Any) -> RouterEvidence:
    return learned(layer).model_copy(update={"drift": drift(**facts)})


def drifted_table(layer: int = 0, changed: int = 0, **facts: Any) -> RouterEvidence:
    firm = {"firm_sets": None, "firm_overlap": None, "own_sets": None}
    whole = {**firm, "bias": None, "table_rows": VOCABULARY, "table_changed": changed}
    same = {"overlap": interval(1, 0), "same_sets": interval(1, 0)}
    return hashed(layer).model_copy(update={"drift": drift(**(whole | same | facts))})


def against_base(seen: Evidence) -> Evidence:
    return seen.model_copy(update={"base": BASE})


def compared(*routers: RouterEvidence) -> Evidence:
    return against_base(evidence(*routers))
