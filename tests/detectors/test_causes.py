"""One root cause is one finding; what it explains follows it."""

from moeprobe.detectors import bias_runaway, flatness, sqrt_nan
from moeprobe.findings.finding import Finding

from .synthetic import EXPERTS, bias, evidence, judged, learned, logits, selection, weights


def findings(*routers: object) -> list[Finding]:
    return judged(evidence(*routers)).findings


def test_a_flat_router_lets_the_bias_decide() -> None:
    flat = learned(3, logits=logits(std=0.001), selection=selection(bias_only=0.97, modal=0.97))
    judgement = judged(evidence(learned(0), flat))
    root, consequence = judgement.findings
    assert (root.detector, root.severity, root.follows) == ("flat-scores", "error", None)
    assert (consequence.cause, consequence.severity) == (bias_runaway.DECIDES, "info")
    assert consequence.follows == flat.router.path
    verdicts = {check.detector: check.verdict for check in judgement.checks if check.router == flat.router.path}
    assert verdicts["bias-runaway"] == "finding"


def test_a_severe_consequence_of_a_mild_cause_stays_severe() -> None:
    mild = learned(logits=logits(std=0.03), selection=selection(bias_only=0.97))
    consequence, root = findings(mild)
    assert (root.detector, root.severity) == ("flat-scores", "warning")
    assert (consequence.severity, consequence.follows) == ("error", mild.router.path)


def test_a_bias_that_outweighs_makes_one_set() -> None:
    biased = learned(selection=selection(bias_only=0.97, modal=0.97))
    root, consequence = findings(biased)
    assert (root.cause, root.follows) == (bias_runaway.DECIDES, None)
    assert (consequence.cause, consequence.severity) == (flatness.BIAS_OUTWEIGHS, "info")


def test_nan_travels_down() -> None:
    sick = [learned(i, logits=logits(nonfinite=5)) for i in (4, 5, 6)]
    found = findings(learned(3), *sick)
    assert [(f.layer, f.severity, f.follows) for f in found] == [
        (4, "error", None),
        (5, "info", sick[0].router.path),
        (6, "info", sick[0].router.path),
    ]


def test_a_broken_gate_is_the_root_of_its_nan() -> None:
    gate = learned(2, gate_facts={"nonfinite_rows": [1]}, logits=logits(nonfinite=5))
    later = learned(3, weights=weights(nonfinite=5))
    root, *rest = findings(gate, later)
    assert (root.cause, root.follows) == (flatness.NONFINITE_ROWS, None)
    assert [(f.detector, f.severity, f.follows) for f in rest] == [("sqrt-nan", "info", gate.router.path)] * 2


def test_an_edge_is_not_a_consequence_of_nan_elsewhere() -> None:
    found = findings(learned(1, logits=logits(nonfinite=5)), learned(2, "sqrtsoftplus", logits=logits(smallest=-104.0)))
    assert [f.cause for f in found if f.follows is None] == [sqrt_nan.NONFINITE_LOGITS, sqrt_nan.NAN_GRADIENT]


def test_order_is_worst_then_roots_then_depth() -> None:
    found = findings(
        learned(1, selection=selection(ties=0.02)),
        learned(2, gate_facts={"identical_rows": [(0, 1)]}),
        learned(3, logits=logits(std=0.001)),
        learned(4, gate_facts={"zero_rows": list(range(EXPERTS))}, selection=selection(bias_only=0.6)),
    )
    assert [(f.severity, f.layer) for f in found] == [
        ("error", 2),
        ("error", 3),
        ("error", 4),
        ("warning", 1),
        ("info", 4),
    ]


def test_a_broken_bias_does_not_make_nan_elsewhere() -> None:
    # The bias only chooses; weights are made of the scores.
    broken = learned(0, facts={"selection_bias": bias([float("nan")] + [0.0] * (EXPERTS - 1))})
    found = findings(broken, learned(1, weights=weights(nonfinite=5)))
    assert [f.follows for f in found] == [None, None]
