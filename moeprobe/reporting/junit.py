"""JUnit XML, for the test tab of a CI: the suite is the checkpoint, a case is one detector at one router.

    <testsuites tests="72" failures="1" errors="0" skipped="11">
      <testsuite name="moeprobe: tiny-deepseek-v4">
        <testcase classname="moeprobe.scale-mismatch" name="model.layers.4.mlp.gate">
          <failure type="error" message="Layer 4: the loss is least with ...">Measured: ...</failure>

A finding that fails the check is a *failure*; one below the bar, or known from the baseline, stands in the output of a
case that passes. A check that was skipped is *skipped* with its reason, one that failed to run is an *error*, and what
was not checked at all is a skipped case of its own.
"""

import io
import math
from collections.abc import Sequence

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from moeprobe.findings.finding import Check, Finding
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.standing import facts, standing
from moeprobe.reporting.text import plain
from moeprobe.reporting.verdict import judgement, verdict

_WHOLE = "the whole model"


def render(result: Result, judged: Verdict | None = None) -> str:
    """Write JUnit XML; characters that XML does not allow are replaced."""
    suite = TestSuite(plain(f"moeprobe: {result.model.name}"))
    suite.timestamp = plain(result.environment.started)
    suite.add_property("verdict", verdict(result))
    if judged is not None:
        suite.add_property("outcome", judgement(judged))
    for name, value in _properties(result).items():
        suite.add_property(name, plain(value))
    suite.add_testcases(_cases(result, judged))
    whole = JUnitXml("moeprobe")
    whole.add_testsuite(suite)
    whole.update_statistics()  # type: ignore[no-untyped-call]
    if math.isfinite(result.environment.seconds):  # of all cases together; none has a time of its own
        suite.time = whole.time = result.environment.seconds
    written = io.BytesIO()
    whole.write(written, pretty=True)
    return written.getvalue().decode()


def _properties(result: Result) -> dict[str, str]:
    model, ran = result.model, result.environment
    return {
        "model": model.source,
        "revision": model.revision or "not known",
        "dtype": model.dtype,
        "recipe": str(result.recipe.get("name", "")),
        "moeprobe": ran.moeprobe,
        "command": ran.command,
    }


def _cases(result: Result, judged: Verdict | None) -> list[TestCase]:
    found: dict[tuple[str, str | None], list[Finding]] = {}
    for finding in result.findings:
        found.setdefault((finding.detector, finding.router), []).append(finding)
    cases = [_case(check, found.pop((check.detector, check.router), []), judged) for check in result.checks]
    # A detector may find something about a router, or the whole model, that it has no check of its own for.
    for (detector, router), rest in found.items():
        cases.append(_case(Check(detector=detector, router=router, verdict="finding"), rest, judged))
    for one in result.not_checked:
        case = TestCase(plain(one.what), "moeprobe.not-checked", 0)
        case.result = [Error(plain(one.why), "not checked") if one.blocking else Skipped(plain(one.why))]
        cases.append(case)
    return cases


def _case(check: Check, findings: Sequence[Finding], judged: Verdict | None) -> TestCase:
    case = TestCase(plain(check.router or _WHOLE), plain(f"moeprobe.{check.detector}"), 0)
    standings = {standing(finding, judged) for finding in findings}
    if check.verdict == "failed":
        case.result = [Error(plain(check.reason) or "failed to run", "failed")]
    elif check.verdict == "skipped":
        case.result = [Skipped(plain(check.reason) or "no reason given")]
    for finding in findings:
        if standing(finding, judged) == "failing":
            failure = Failure(plain(finding.message), finding.severity)
            failure.text = "\n".join(facts(finding))
            case.result = [*case.result, failure]
    if standings - {"failing"}:
        case.system_out = "\n".join(
            f"{finding.severity}{', known from the baseline' if standing(finding, judged) == 'known' else ''}: "
            f"{plain(finding.message)}"
            for finding in findings
            if standing(finding, judged) != "failing"
        )
    return case
