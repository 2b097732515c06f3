"""MP704: exact and near copies, and copies that are reported once."""

from moeprobe.detectors import duplicate_experts as de
from moeprobe.findings.weights import ExpertWeights

from .synthetic import EXPERTS, evidence, judged, learned, problems, run

NAME = "duplicate-experts"


def test_identical_experts() -> None:
    checks, (found,) = run(NAME, learned(expert_facts={"identical": [[2, 5], [3, 9, 11]]}))
    assert (found.severity, found.cause, found.experts) == ("error", de.IDENTICAL, [2, 3, 5, 9, 11])
    assert "experts 2 and 5; of experts 3, 9 and 11" in found.message
    assert checks[0].verdict == "finding"


def test_all_experts_identical() -> None:
    _, (found,) = run(NAME, learned(expert_facts={"identical": [list(range(EXPERTS))], "cosine": [1.0] * EXPERTS}))
    assert "all experts are identical" in found.message
    assert found.experts == []


def test_nearly_identical_from_both_sides() -> None:
    near = [0.9991, 0.9991] + [0.9989] * (EXPERTS - 2)
    _, (found,) = run(NAME, learned(expert_facts={"cosine": near}))
    assert (found.severity, found.cause, found.experts) == ("warning", de.SIMILAR, [0, 1])
    assert problems(run(NAME, learned(expert_facts={"cosine": [0.998] * EXPERTS}))[1]) == []


def test_nearly_identical_rows() -> None:
    rows = [0.9995, 0.9995] + [0.1] * (EXPERTS - 2)
    _, (found,) = run(NAME, learned(gate_facts={"row_cosine": rows}))
    assert (found.severity, found.cause) == ("warning", de.SIMILAR_ROWS)
    # Copied with their rows: one finding.
    _, (found,) = run(NAME, learned(gate_facts={"row_cosine": rows}, expert_facts={"identical": [[0, 1]]}))
    assert found.cause == de.IDENTICAL
    # Equal rows are the business of flat-scores.
    assert run(NAME, learned(gate_facts={"row_cosine": rows, "identical_rows": [(0, 1)]}))[1] == []


def test_copies_explain_their_equal_rows_and_rows_alone_stay() -> None:
    copied = learned(gate_facts={"identical_rows": [(2, 5)]}, expert_facts={"identical": [[2, 5]]})
    root, follows = judged(evidence(copied)).findings
    assert (root.detector, follows.detector, follows.severity) == (NAME, "flat-scores", "info")
    rows_alone = learned(gate_facts={"identical_rows": [(2, 5)]})
    assert [f.detector for f in judged(evidence(rows_alone)).findings] == ["flat-scores"]


def test_skipped_with_the_reason() -> None:
    quantised = learned()
    quantised = quantised.model_copy(update={"experts": ExpertWeights(reason="the experts are quantised")})
    checks, _ = run(NAME, quantised)
    assert (checks[0].verdict, checks[0].reason) == ("skipped", "the experts are quantised")
    checks, _ = run(NAME, learned().model_copy(update={"experts": None, "weights": None}))
    assert checks[0].verdict == "skipped"
