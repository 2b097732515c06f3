"""Finding detectors, their limits, their documentation, and their judgement as a whole."""

import re
import subprocess
import sys

import pytest

from moeprobe.detectors.detector import HEADINGS, Detector
from moeprobe.detectors.flat_scores import FlatScores, FlatScoresLimits
from moeprobe.detectors.registry import DETECTORS, choose, documentation, explain, find, judge, resolve_limits
from moeprobe.errors import OptionError
from moeprobe.findings.evidence import Backward, Evidence, Experiments
from moeprobe.findings.unread import Unread

from .drifted import against_base, drift, interval
from .synthetic import (
    BFLOAT16,
    RANDOM,
    TOKENS,
    K,
    bias,
    choice,
    contract,
    curve,
    evidence,
    hashed,
    judged,
    learned,
    load,
    logits,
    magnitudes,
    run,
    selection,
    weights,
)


def names(detectors: list[Detector]) -> list[str]:
    return [detector.name for detector in detectors]


EVERYTHING = [
    "flat-scores",
    "bias-runaway",
    "sqrt-nan",
    "scale-mismatch",
    "hash-boundary",
    "dead-experts",
    "overloaded-experts",
    "low-precision-routing",
    "broken-contract",
    "permuted-experts",
    "duplicate-experts",
    "untrained-gate",
    "unread-tensors",
    "routing-drift",
]


@pytest.mark.parametrize(
    ("select", "ignore", "chosen"),
    [
        ((), (), EVERYTHING),
        (("flat-scores",), (), ["flat-scores"]),
        (("MP301", "mp101"), (), ["flat-scores", "sqrt-nan"]),
        (("MP2", "s"), (), ["bias-runaway", "sqrt-nan", "scale-mismatch"]),
        ((), ("MP",), None),
        (("MP",), ("hash-boundary", "MP4", "MP6", "MP7", "MP8"), EVERYTHING[:3]),
    ],
)
def test_choose(select: tuple, ignore: tuple, chosen: list[str] | None) -> None:
    if chosen is None:
        with pytest.raises(OptionError, match="ignored as well"):
            choose(select, ignore)
    else:
        assert names(choose(select, ignore)) == chosen


@pytest.mark.parametrize("word", ["flat-score-s", "MP9", "", "sqrt nan"])
def test_unknown_detectors(word: str) -> None:
    for ask in (find, explain, lambda w: choose([w]), lambda w: choose([], [w])):
        with pytest.raises(OptionError, match="Unknown detector"):
            ask(word)
    with pytest.raises(OptionError, match=r"did you mean 'flat-scores'\?"):
        find("flat_scores")


def test_limits_can_be_moved() -> None:
    seen = learned(logits=logits(std=0.2))
    assert run("flat-scores", seen)[1] == []
    _, findings = run("flat-scores", seen, limits={"std_error": 0.25})
    assert (findings[0].limit, findings[0].limit_name) == (0.25, "flat-scores.std_error")
    assert run("flat-scores", learned(tokens=100), limits={"min_tokens": 100.0})[0][0].verdict == "clean"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"flat-score": {}}, "unknown detector 'flat-score' (did you mean 'flat-scores'?)"),
        ({"flat-scores": {"std_eror": 1}}, "no limit 'std_eror' (did you mean 'std_error'?)"),
        ({"flat-scores": {"std_error": -1}}, "flat-scores.std_error cannot be -1"),
        ({"flat-scores": {"std_error": float("nan")}}, "flat-scores.std_error cannot be nan"),
        ({"flat-scores": {"min_tokens": 0.5}}, "flat-scores.min_tokens cannot be 0.5"),
        ({"flat-scores": {"ties_error": 2}}, "flat-scores.ties_error cannot be 2"),
    ],
)
def test_wrong_limits(overrides: dict, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_limits(overrides)


def test_limits_are_plain_numbers_by_name() -> None:
    resolved = {name: dict(limits) for name, limits in resolve_limits().items()}
    assert list(resolved) == EVERYTHING
    assert all(isinstance(value, int | float) for limits in resolved.values() for value in limits.values())


@pytest.mark.parametrize("detector", DETECTORS, ids=names(DETECTORS))
def test_documentation(detector: Detector) -> None:
    text = documentation(detector)
    assert text.startswith(f"{detector.code} {detector.name}: ")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == HEADINGS
    sections = dict(zip(HEADINGS, re.split(r"^## .+$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(section.strip() for section in sections.values())
    listed = {name: float(value) for name, value in re.findall(r"`(\w+)` \(([\d.]+)\)", sections["Limits"])}
    assert listed == pytest.approx(detector.Limits().model_dump())
    assert all(field.description for field in detector.Limits.model_fields.values())
    assert explain(detector.code) == text + "\n"


def test_explain_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from moeprobe.detectors.registry import explain\n"
        "print(explain('sqrt-nan'))\n"
        "assert not {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MP301 sqrt-nan")


def sick_model() -> Evidence:
    """A model in which every detector finds something."""
    values = [float("nan")] + [0.0] * 15
    uneven = load([0, 8000, *[(TOKENS * K - 8000) // 14] * 14])
    elsewhere = learned(8).model_copy(update={"drift": drift(firm_overlap=interval(0.1))})
    seen = evidence(
        hashed(0, {"out_of_range": 1}),
        learned(1, "sqrtsoftplus", facts={"selection_bias": bias(values)}, logits=logits(std=0.001)),
        learned(2, "sqrtsoftplus", logits=logits(smallest=-104.0), selection=selection(bias_only=0.7)),
        learned(3, "softmax", weights=weights(nonfinite=3), magnitudes=magnitudes(shared=0.001)),
        learned(5, load=uneven),
        learned(4, gate_facts={"logit_bound": None}, facts={"verified": False, "reason": "it fired twice"}),
        learned(5, contract=contract(other_weighting=TOKENS, other_weighting_biased=0)),
        learned(6, facts={"arithmetic": BFLOAT16}, selection=selection(flips_float32=0.4)),
        learned(7, gate_facts={"shape": RANDOM}, expert_facts={"coupling": 0.3, "identical": [[2, 5]]}),
        elsewhere,
        experiments=Experiments(
            loss=2.0,
            scale=[curve(best=0.05)],
            choice=[choice(-0.02, 0.01, layer=2), choice(-0.02, 0.01, layer=7)],
            gradient={"model.layers.2.mlp.gate": Backward(tokens=1, nonfinite=9)},
        ),
    )
    lost = Unread(
        kind="tensors", names=["layers.*.gate.bias"], count=4, routing=True, why="the model has no place for it"
    )
    return against_base(seen).model_copy(update={"unread": [lost]})


def test_a_saved_result_is_judged_the_same() -> None:
    seen = sick_model()
    again = Evidence.model_validate_json(seen.model_dump_json())
    first, second = judged(seen), judged(again)
    assert {found.detector for found in first.findings} == set(EVERYTHING)
    assert [found.model_dump_json() for found in first.findings] == [f.model_dump_json() for f in second.findings]
    assert first.checks == second.checks


def test_one_check_per_detector_and_router() -> None:
    seen = sick_model()
    checks = judged(seen).checks
    keys = [(check.detector, check.router) for check in checks]
    expected = [(name, r.router.path) for name in EVERYTHING for r in seen.routers]
    whole = [("scale-mismatch", None), ("unread-tensors", None)]
    expected = [key for key in expected if key[0] != "unread-tensors"]
    assert sorted(keys, key=str) == sorted([*expected, *whole], key=str)
    assert all(check.reason for check in checks if check.verdict in ("skipped", "failed"))


def test_every_finding_says_what_to_do() -> None:
    for found in judged(sick_model()).findings:
        assert found.message.endswith(".")
        whole = "Checkpoint: " if found.detector == "unread-tensors" else "All layers: "
        assert found.message.startswith(whole if found.layer is None else f"Layer {found.layer}: ")
        assert found.cause
        assert not re.search(r"\d{2}", found.cause.replace("16 bits", ""))
        assert found.remedy
        assert found.quantity
        if found.limit_name:
            detector, limit = found.limit_name.split(".")
            assert getattr(resolve_limits()[detector], limit) == found.limit


def test_a_detector_that_raises_fails_its_checks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: FlatScores, _evidence: Evidence, _limits: FlatScoresLimits) -> None:
        raise ZeroDivisionError("no tokens")

    monkeypatch.setattr(FlatScores, "judge", broken)
    result = judge(evidence(learned(0), learned(1)), choose(["flat-scores", "sqrt-nan"]))
    assert [(check.detector, check.verdict) for check in result.checks] == [
        ("flat-scores", "failed"),
        ("flat-scores", "failed"),
        ("sqrt-nan", "clean"),
        ("sqrt-nan", "clean"),
    ]
    assert "ZeroDivisionError: no tokens" in result.checks[0].reason


def test_a_healthy_model_has_no_problem_anywhere() -> None:
    routers = [hashed(0), *(learned(i, "sqrtsoftplus") for i in range(1, 8))]
    result = judged(evidence(*routers, experiments=Experiments(loss=2.0, scale=[curve(best=1.1)])))
    assert result.findings == []
    assert {check.verdict for check in result.checks} <= {"clean", "skipped"}


def test_nothing_at_all_is_judged_without_a_crash() -> None:
    result = judged(evidence(probed=False))
    assert result.findings == []
    assert {check.verdict for check in result.checks} == {"skipped"}
