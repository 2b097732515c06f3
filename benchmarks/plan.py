"""Plan: every case of the benchmark, and what it will cost."""

import re

from benchmarks.patient import CHECKPOINTS
from benchmarks.planting import FAULTS, LOOKALIKES, Fault
from benchmarks.scoring import KNOWN, Case

SMALL, MIDDLE, LARGE = 512, 2048, 16_384
_SLOW = "experts-batched"
"""batched_mm copies the experts of every token; it is run on the small probe only."""


def plan(quick: bool, only: str = "") -> list[Case]:
    """All cases whose key contains the pattern ``only``, the cheap ones first."""
    cases = [
        case
        for dtype in (("float32",) if quick else ("float32", "bfloat16"))
        for checkpoint in CHECKPOINTS
        for case in [*_lookalikes(checkpoint, dtype, quick), *_faults(checkpoint, dtype, quick)]
    ]
    return sorted((c for c in cases if re.search(only, c.key)), key=lambda c: c.tokens)


def _faults(checkpoint: str, dtype: str, quick: bool) -> list[Case]:
    return [
        Case(True, fault.full_name, checkpoint, dtype, strength, seed, tokens, fault.loss)
        for fault in FAULTS
        if dtype in fault.dtypes
        for strength, seed, tokens in _doses(fault, dtype, quick)
    ]


def _doses(fault: Fault, dtype: str, quick: bool) -> list[tuple[float, int, int]]:
    """Strength, seed and tokens of every case of a fault in one checkpoint."""
    strongest = fault.strengths[-1]
    seeds = (0, 1) if fault.scope == "layer" else (0,)
    if fault.loss:
        # The loss test reads the model a dozen times: one seed, and in bfloat16 the far ends alone.
        strengths = fault.strengths[-2:] if quick or dtype == "bfloat16" else fault.strengths
        return [(s, 0, max(fault.tokens, MIDDLE)) for s in strengths]
    usual = max(fault.tokens, MIDDLE)
    if quick:
        return [(strongest, 0, usual)]
    if fault.detector not in KNOWN:
        return [(s, 0, MIDDLE) for s in fault.strengths]
    if dtype == "bfloat16" and fault.tokens > MIDDLE:
        return [(s, 0, usual) for s in fault.strengths]
    doses = [(s, seed, usual) for s in fault.strengths for seed in seeds]
    others = {SMALL, MIDDLE, LARGE} - {usual}
    return doses + [(strongest, 0, tokens) for tokens in sorted(others)]


def _lookalikes(checkpoint: str, dtype: str, quick: bool) -> list[Case]:
    found = []
    for lookalike in LOOKALIKES:
        slow = lookalike.name == _SLOW
        tokens = [SMALL] if slow else [MIDDLE] if quick else [SMALL, MIDDLE, LARGE]
        for budget in tokens:
            loss = not quick and not slow and (budget == MIDDLE or (budget == LARGE and lookalike.name == "healthy"))
            found.append(Case(False, lookalike.name, checkpoint, dtype, 0.0, 0, budget, loss))
    return found


def seconds(case: Case) -> float:
    """What a case takes on one free core, roughly."""
    rate = 0.3 if case.checkpoint == "deepseek_v4" else 0.08
    forwards = case.tokens / 1000 + (16 if case.loss else 0) + (40 if case.name.endswith("one-layer") else 0)
    return float(0.05 + rate * forwards * (1.3 if case.dtype == "bfloat16" else 1))
