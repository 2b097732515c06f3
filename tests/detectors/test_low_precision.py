"""MP701: each bar from both sides, and where it does not apply."""

import pytest

from moeprobe.detectors.low_precision import FEW_LEVELS
from moeprobe.findings.router import Arithmetic

from .synthetic import BFLOAT16, hashed, judged, learned, logits, run, selection
from .synthetic import evidence as made

NAME = "low-precision-routing"


@pytest.mark.parametrize(
    ("share", "severity", "verdict"),
    [(0.0, None, "clean"), (0.019, None, "clean"), (0.02, "info", "clean"), (0.149, "info", "clean"),
     (0.15, "warning", "finding"), (0.9, "warning", "finding")],
)  # fmt: skip
def test_bars(share: float, severity: str | None, verdict: str) -> None:
    checks, findings = run(NAME, learned(facts={"arithmetic": BFLOAT16}, selection=selection(flips_float32=share)))
    assert [f.severity for f in findings] == ([severity] if severity else [])
    assert checks[0].verdict == verdict


@pytest.mark.parametrize("part", ["product", "score", "selection"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_one_part_in_16_bits_is_enough(part: str, dtype: str) -> None:
    parts = dict.fromkeys(("product", "score", "selection", "weights"), "float32") | {part: dtype}
    _, (found,) = run(NAME, learned(facts={"arithmetic": Arithmetic(**parts)}, selection=selection(flips_float32=0.3)))
    assert f"{part} run in {dtype}" in found.message


@pytest.mark.parametrize(
    ("router", "reason"),
    [
        (learned(selection=selection(flips_float32=0.9)), "the router computes in float32"),
        (learned(facts={"arithmetic": None}), "in which arithmetic the router runs was not seen"),
        (learned(facts={"arithmetic": BFLOAT16}, selection=None), "the selection was not recomputed"),
        (learned(facts={"arithmetic": BFLOAT16}, tokens=500), "too few tokens: 500 of 1,000"),
        (learned(weights_only=True), "needs a forward pass"),
        (hashed(), "a hash table chooses here, not the scores"),
    ],
)
def test_skipped(router: object, reason: str) -> None:
    checks, findings = run(NAME, router)
    assert (checks[0].verdict, checks[0].reason, findings) == ("skipped", reason, [])


def test_weights_in_16_bits_do_not_choose() -> None:
    arithmetic = Arithmetic(product="float32", score="float32", selection="float32", weights="bfloat16")
    checks, _ = run(NAME, learned(facts={"arithmetic": arithmetic}, selection=selection(flips_float32=0.9)))
    assert checks[0].verdict == "skipped"


def test_flat_scores_explain_it() -> None:
    flat = learned(facts={"arithmetic": BFLOAT16}, logits=logits(std=0.001), selection=selection(flips_float32=0.5))
    root, follows = judged(made(flat)).findings
    assert (root.detector, follows.detector, follows.severity) == ("flat-scores", NAME, "info")


@pytest.mark.parametrize(("share", "found"), [(0.4, True), (0.7699, True), (0.77, False), (0.99, False), (None, False)])
def test_a_gate_of_few_levels(share: float | None, found: bool) -> None:
    for weights_only in (True, False):
        seen = learned(gate_facts={"distinct": share}, weights_only=weights_only)
        _, findings = run(NAME, seen)
        assert [(f.severity, f.cause) for f in findings] == ([("warning", FEW_LEVELS)] if found else [])
    equal = learned(gate_facts={"distinct": share, "identical_rows": [(0, 1)]})
    assert run(NAME, equal)[1] == []
