"""permuted-experts judges what the choice of a layer is worth."""

import math

import pytest

from moeprobe.detectors import permuted_experts
from moeprobe.findings.evidence import ChoiceTest, Experiments, Interval

from .synthetic import choice, evidence, hashed, judged, learned, logits, problems, run

NAME = "permuted-experts"
PATH = "model.layers.{}.mlp.gate"


def judge(*tests: ChoiceTest, loss: float = 4.0, **limits: float):
    routers = [learned(layer) for layer in range(len(tests))] or [learned(0)]
    return run(NAME, *routers, experiments=Experiments(loss=loss, choice=list(tests)), limits=limits)


def test_a_choice_that_matters_is_clean() -> None:
    checks, findings = judge(choice(), choice(0.0001, 0.02, layer=1))
    assert findings == []
    assert [check.verdict for check in checks] == ["clean", "clean"]
    assert checks[0].reason == "random experts change the loss by +0.06 nats per token (+0.04 to +0.08)"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.03, "finding"),
        (-0.02, 0.04, "finding"),
        (-0.02, 0.0401, "skipped"),
        (-0.08, -0.02, "finding"),
        (1e-6, 0.03, "clean"),
    ],
)
def test_the_interval_decides(low: float, high: float, verdict: str) -> None:
    checks, findings = judge(choice(low, high))
    assert checks[0].verdict == verdict
    assert problems(findings) == ([("warning", permuted_experts.WORTHLESS)] if verdict == "finding" else [])
    if verdict == "skipped":
        assert checks[0].reason.startswith("not decided, too few tokens")


@pytest.mark.parametrize(("stir", "redundant"), [(0.0499, True), (0.05, False)])
def test_a_redundant_layer_is_not_accused(stir: float, redundant: bool) -> None:
    checks, findings = judge(choice(-0.001, 0.001, stir=stir))
    cause = permuted_experts.REDUNDANT if redundant else permuted_experts.WORTHLESS
    assert [(found.severity, found.cause) for found in findings] == [("info" if redundant else "warning", cause)]
    assert checks[0].verdict == ("clean" if redundant else "finding")


@pytest.mark.parametrize(("high", "mentioned"), [(0.3499, True), (0.35, False)])
def test_a_small_share_is_mentioned(high: float, mentioned: bool) -> None:
    checks, findings = judge(choice(share=Interval(value=0.2, low=0.1, high=high)))
    assert checks[0].verdict == "clean"
    assert [(f.severity, f.cause) for f in findings] == ([("info", permuted_experts.LITTLE)] if mentioned else [])


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"documents": 7}, "too few documents: 7 of 8"),
        ({"sources": 2}, "too few sources: 2 of 3"),
        ({"documents": 8, "sources": 3}, ""),
        ({"stir": math.nan}, "not decided: the loss with random experts is not finite"),
        ({"rise": Interval(value=math.nan, low=math.nan, high=math.nan)}, "not decided: the loss with random"),
    ],
)
def test_too_little_to_judge(facts: dict, reason: str) -> None:
    checks, findings = judge(choice(**{"low": -0.02, "high": 0.0} | facts))
    assert checks[0].verdict == ("skipped" if reason else "finding")
    assert bool(findings) != bool(reason)
    assert checks[0].reason.startswith(reason)


def test_not_run() -> None:
    assert run(NAME, learned())[0][0].reason == "needs the loss test of the choice"
    assert run(NAME, learned(weights_only=True))[0][0].reason == "needs a forward pass"
    assert judge(loss=math.nan)[0][0].reason == "the loss of the probe is not finite"
    checks, _ = run(NAME, learned(0), learned(1), experiments=Experiments(loss=4.0, choice=[choice()]))
    assert checks[1].reason == "its experts module takes no choice that could be replaced"


def test_a_hash_table_is_judged_too() -> None:
    _, findings = run(NAME, hashed(0), experiments=Experiments(loss=4.0, choice=[choice(-0.02, 0.01)]))
    assert problems(findings) == [("warning", permuted_experts.WORTHLESS)]


def test_the_earliest_cause_comes_first() -> None:
    """A flat gate has no choice to test, and behind a shuffled layer a sound one may be worth nothing."""
    tests = [choice(-0.02, 0.01, layer=1), choice(-0.02, 0.01, layer=2)]
    seen = evidence(learned(0), learned(1), learned(2), experiments=Experiments(loss=4.0, choice=tests))
    follows = {found.layer: (found.severity, found.follows) for found in judged(seen, NAME).findings}
    assert follows == {1: ("warning", None), 2: ("info", PATH.format(1))}
    flat = evidence(
        learned(0), learned(1, logits=logits(std=1e-4)), learned(2), experiments=Experiments(loss=4.0, choice=tests[:1])
    )
    found = judged(flat, "flat-scores", NAME).findings
    assert [(f.detector, f.severity) for f in found] == [("flat-scores", "error"), (NAME, "info")]
    assert found[1].follows == PATH.format(1)
