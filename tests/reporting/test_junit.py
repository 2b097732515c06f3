"""JUnit XML: every check is a case, and a reader gets back what was written."""

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped, TestCase

from moeprobe.findings.finding import Check
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.junit import render
from tests.reporting import bad, samples, verdicts


def cases(result: Result, judged: Verdict | None = None) -> dict[tuple[str, str], TestCase]:
    (suite,) = JUnitXml.fromstring(render(result, judged).encode())
    found = {(case.classname, case.name): case for case in suite}
    assert suite.tests == len(list(suite)) == len(found)
    return found


def kinds(case: TestCase) -> list[type]:
    return [type(one) for one in case.result]


def test_one_case_a_check_and_what_was_not_checked() -> None:
    result = samples.sick()
    found = cases(result)
    expected = {(f"moeprobe.{c.detector}", c.router or "the whole model") for c in result.checks}
    assert {key for key in found if key[0] != "moeprobe.not-checked"} == expected
    left_out = found["moeprobe.not-checked", "Routing against a base model"]
    assert kinds(left_out) == [Skipped]
    assert left_out.result[0].message == "no base model was given"


def test_errors_fail_and_warnings_are_told() -> None:
    result = samples.sick()
    found = cases(result)
    by_severity = {one.severity: one for one in result.findings}
    error, warning = by_severity["error"], by_severity["warning"]
    case = found[f"moeprobe.{error.detector}", error.router or "the whole model"]
    assert kinds(case) == [Failure]
    assert case.result[0].message == error.message
    assert "To do: Compare the tensor" in case.result[0].text
    told = found[f"moeprobe.{warning.detector}", warning.router or "the whole model"]
    assert told.is_passed
    assert f"warning: {warning.message}" in (told.system_out or "")


def test_a_baseline_lets_known_findings_pass() -> None:
    result = samples.sick()
    judged = verdicts.against(result)
    found = cases(result, judged)
    (known,) = judged.known or []
    case = found[f"moeprobe.{known.detector}", known.router or "the whole model"]
    assert case.is_passed
    assert "known from the baseline" in (case.system_out or "")
    failures = [case for case in found.values() if case.is_failure]
    assert len(failures) == len({(one.detector, one.router) for one in judged.failing})


def test_skipped_and_failed_checks_say_why() -> None:
    base = samples.weights_only()
    broken = Check(detector="flat-scores", router="x", verdict="failed", reason="it broke")
    found = cases(base.model_copy(update={"checks": [*base.checks, broken]}))
    skipped = found["moeprobe.sqrt-nan", samples.path(0)]
    assert [one.message for one in skipped.result] == ["needs a forward pass"]
    assert kinds(found["moeprobe.flat-scores", "x"]) == [Error]


def test_a_finding_without_a_check_is_not_lost() -> None:
    base = samples.sick()
    found = cases(base.model_copy(update={"checks": []}))
    assert sum(case.is_failure for case in found.values()) == len(
        {(one.detector, one.router) for one in base.findings if one.severity == "error"}
    )


@pytest.mark.parametrize("build", [samples.healthy, samples.sick, bad.hostile, bad.nonfinite])
def test_any_name_is_valid_xml(build: object) -> None:
    result: Result = build()  # type: ignore[operator]
    text = render(result)
    (suite,) = JUnitXml.fromstring(text.encode())
    assert suite.name.startswith("moeprobe: ")
    assert suite.time >= 0
    assert "<script" not in text
