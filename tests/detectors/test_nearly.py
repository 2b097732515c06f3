"""At the edge of a limit growth counts and not the crossing; every case from both sides."""

import pytest

from moeprobe.detectors import overloaded_experts
from moeprobe.detectors.nearly import nearly, said
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.findings.baseline import Comparison, compare
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import Finding
from moeprobe.findings.verdict import decide
from tests.reporting import samples

from .synthetic import evidence, learned, logits
from .test_load_detectors import one, shaped


def at(share: float) -> Evidence:
    """A layer in which expert 3 gets this share of 400,000 tokens."""
    return evidence(shaped(one(share * 8, 64), 400_000, 8))


def compared(before: Evidence, now: Evidence, name: str = "overloaded-experts") -> tuple[list[Finding], Comparison]:
    detectors, limits = choose([name]), resolve_limits({})
    plain = {key: dict(value) for key, value in limits.items()}
    then, found = judge(before, detectors, limits), judge(now, detectors, limits)
    base = samples.healthy().model_copy(
        update={"evidence": before, "checks": then.checks, "findings": then.findings, "limits": plain}
    )
    close = nearly(before, found.findings, detectors, limits)
    findings = [said(each, close.get(each.fingerprint)) for each in found.findings]
    return findings, compare(base, found.checks, findings, plain, close)


@pytest.mark.parametrize(
    ("before", "now", "new", "told"),
    [
        (0.625, 0.645, False, True),  # odds of 11.7 and 12.7: it crossed the limit and hardly grew
        (0.625, 0.69, True, True),  # 11.7 and 15.6
        (0.50, 0.645, True, False),  # 7.0, the fullest expert of a published fine-tune, and 12.7
        (0.645, 0.69, False, False),  # over the limit before
        (0.645, 0.80, True, False),  # over the limit before, and twice the odds
    ],
)
def test_growth_and_not_the_crossing(before: float, now: float, new: bool, told: bool) -> None:
    (found,), result = compared(at(before), at(now))
    assert found.cause == overloaded_experts.OVERLOADED
    assert (result.new, result.known) == (([found.fingerprint], []) if new else ([], [found.fingerprint]))
    assert ("The baseline nearly had this" in found.message) == told
    assert (found.fingerprint in result.nearly) == told
    assert (found.fingerprint in result.grown) == (new and before > 0.64)


def test_another_expert_was_near_the_limit() -> None:
    base = shaped([0.625 * 8 if e == 5 else (64 - 0.625 * 8) / 63 for e in range(64)], 400_000, 8)
    (found,), result = compared(evidence(base), at(0.645))
    assert result.new == [found.fingerprint]
    assert "nearly" not in found.message


@pytest.mark.parametrize(("before", "new"), [(1.05, False), (2.0, True)])
def test_other_detectors_and_limits_from_below(before: float, new: bool) -> None:
    """Scores that are nearly equal: the limit is a least spread."""
    bar = dict(resolve_limits({})["flat-scores"])["std_warning"]

    def with_spread(value: float) -> Evidence:
        return evidence(learned(logits=logits(std=value)))

    findings, result = compared(with_spread(bar * before), with_spread(bar * 0.97), "flat-scores")
    crossed = [one for one in findings if one.limit_name == "flat-scores.std_warning"]
    assert len(crossed) == 1
    assert (crossed[0].fingerprint in result.new) == new


def test_evidence_that_a_detector_cannot_read_is_no_reason_to_fail() -> None:
    found = judge(at(0.645), choose(["overloaded-experts"]), resolve_limits({})).findings
    broken = at(0.625)
    router = broken.routers[0].router.model_copy(update={"score_columns": 0})
    broken = broken.model_copy(update={"routers": [broken.routers[0].model_copy(update={"router": router})]})
    assert nearly(broken, found, choose(["overloaded-experts"]), resolve_limits({})) == {}


def test_what_hardly_grew_does_not_fail_a_check() -> None:
    findings, result = compared(at(0.625), at(0.645))
    told = samples.healthy().model_copy(update={"findings": findings, "baseline": result})
    assert decide(told, "warning").exit_code == 0
    assert decide(told.model_copy(update={"baseline": None}), "warning").exit_code == 1
