"""What a finding means for a pipeline, and the plain sentences that say it: shared by JUnit, SARIF and GitHub."""

from typing import Literal

from moeprobe.findings.finding import Finding
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.depth import where
from moeprobe.reporting.text import plain
from moeprobe.reporting.words import measured_and_limit, ranges

Standing = Literal["failing", "known", "told"]


def standing(finding: Finding, judged: Verdict | None) -> Standing:
    """``failing`` fails the check, ``known`` was in the baseline, ``told`` is below the bar.

    Without a verdict errors are failing, as in a check that is told nothing else.
    """
    if judged is None:
        return "failing" if finding.severity == "error" else "told"
    if finding in judged.failing:
        return "failing"
    return "known" if finding in (judged.known or ()) else "told"


def title(finding: Finding) -> str:
    """Name and code of the detector."""
    return plain(f"{finding.detector} ({finding.code})" if finding.code else finding.detector)


def place(finding: Finding) -> str:
    """Say where the finding stands: ``layer 4``, a router path, or ``the whole model``."""
    return where([(finding.layer, finding.router)], plain)


def facts(finding: Finding) -> list[str]:
    """Say what was measured against which limit, the experts, the cause, and what to do; one line each."""
    measured, limit = measured_and_limit(finding.measured, finding.limit)
    bar = f" (limit {limit}{f', set by {plain(finding.limit_name)}' if finding.limit_name else ''})"
    told = [f"Measured: {plain(finding.quantity)}: {measured}{bar if finding.limit is not None else ''}"]
    told += [f"Experts: {ranges(finding.experts)}"] if finding.experts else []
    told += [f"Points to: {plain(finding.cause)}", f"To do: {plain(finding.remedy)}"]
    told += [f"Follows from: {plain(finding.follows)}"] if finding.follows else []
    return told
