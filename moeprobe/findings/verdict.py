"""Verdict: the outcome of a check."""

from moeprobe.findings.finding import Finding, Severity
from moeprobe.findings.plain import Plain


class Verdict(Plain):
    """What a check decided: ``failing`` are the findings at or above ``fail_on`` that made it fail.

    ``new``, ``known`` and ``fixed`` split the findings against a baseline; None where there was none.
    """

    fail_on: Severity
    exit_code: int
    failing: list[Finding]
    new: list[Finding] | None = None
    known: list[Finding] | None = None
    fixed: list[Finding] | None = None
