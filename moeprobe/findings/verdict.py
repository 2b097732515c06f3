"""The verdict of a check: what a result comes to as an exit code, and why."""

from typing import Literal

from moeprobe.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_NOT_CHECKED
from moeprobe.findings.finding import SEVERITIES, Finding
from moeprobe.findings.plain import Plain
from moeprobe.findings.result import Result
from moeprobe.recipe import FailOn


class Verdict(Plain):
    """The judged outcome of a check.

    ``exit_code`` is 0 (clean), 1 (``failing`` is not empty) or 2 (the answer is not known). ``failing`` are the
    findings at or above ``fail_on``; with a baseline only the new ones. ``reason`` is one sentence about the outcome.
    ``new``, ``known`` and ``fixed`` are None without a baseline, so that *not compared* is never *nothing new*.
    """

    exit_code: Literal[0, 1, 2]
    fail_on: FailOn
    reason: str
    failing: list[Finding]
    new: list[Finding] | None = None
    known: list[Finding] | None = None
    fixed: list[Finding] | None = None


def decide(result: Result, fail_on: FailOn | None = None) -> Verdict:
    """Judge a result by its own bar, or by ``fail_on``.

    An answer that is not known is never clean: something that was to be checked could not be, nothing was judged, no
    router was seen at work, a detector failed wherever it ran, or a check that the baseline could answer failed now.
    A finding that fails the check outranks that: it is known.
    """
    bar: FailOn = fail_on or result.fail_on
    against = result.baseline
    new = [one for one in result.findings if against is None or one.fingerprint in against.new]
    failing = [one for one in new if SEVERITIES.index(one.severity) <= SEVERITIES.index(bar)]
    unknown = _unknown(result)
    code = EXIT_FINDINGS if failing else EXIT_NOT_CHECKED if unknown else EXIT_CLEAN
    kind = f"{'new ' if against else ''}finding{'' if len(failing) == 1 else 's'}"
    above = bar if bar == "error" else f"{bar} or above"
    return Verdict(
        exit_code=code,
        fail_on=bar,
        reason=unknown if code == EXIT_NOT_CHECKED else f"{len(failing) or 'no'} {kind} of severity {above}",
        failing=failing,
        new=None if against is None else new,
        known=None if against is None else [one for one in result.findings if one.fingerprint in against.known],
        fixed=None if against is None else against.fixed,
    )


def _unknown(result: Result) -> str:
    """Why the answer is not known, empty where it is."""
    blocked = [one for one in result.not_checked if one.blocking]
    if blocked:
        besides = f" and {len(blocked) - 1} more" if len(blocked) > 1 else ""
        return f"{blocked[0].what}{besides} could not be checked ({blocked[0].why})"
    if not result.evidence.routers:
        why = next((f" ({left_out.what}: {left_out.why})" for left_out in result.not_checked), "")
        return f"no router could be read{why}"
    if not result.count("clean") and not result.count("finding") and not result.weighed:
        return f"nothing was checked: all {len(result.checks)} checks were skipped or failed to run"
    if not result.weights_only and all(one.activations is None for one in result.evidence.routers):
        why = next((f" ({left_out.why})" for left_out in result.not_checked), "")
        return f"no router was seen at work on the texts{why}, so all that was checked are the weights"
    broken = [
        detector
        for detector in dict.fromkeys(check.detector for check in result.checks)
        if {check.verdict for check in result.checks if check.detector == detector} == {"failed"}
    ]
    if broken:
        why = next(check.reason for check in result.checks if check.detector == broken[0])
        return f"{', '.join(broken)} failed wherever it ran ({why})"
    if result.baseline and result.baseline.lost:
        detector, router = result.baseline.lost[0]
        more = len(result.baseline.lost) - 1
        others = f" and {more} more" if more else ""
        return f"{detector} at {router or 'the whole model'}{others} gave an answer in the baseline and failed now"
    return ""
