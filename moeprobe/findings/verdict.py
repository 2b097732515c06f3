"""The verdict of a check: what a result comes to as an exit code, and why."""

from typing import Literal

from moeprobe.findings.finding import Finding
from moeprobe.findings.plain import Plain


class Verdict(Plain):
    """The judged outcome of a check.

    ``exit_code`` is 0 (clean), 1 (``failing`` is not empty) or 2 (the answer is not known). ``failing`` are the
    findings at or above ``fail_on``; with a baseline only the new ones. ``reason`` is one sentence about the outcome.
    ``new``, ``known`` and ``fixed`` are None without a baseline, so that *not compared* is never *nothing new*.
    """

    exit_code: Literal[0, 1, 2]
    fail_on: Literal["error", "warning"]
    reason: str
    failing: list[Finding]
    new: list[Finding] | None = None
    known: list[Finding] | None = None
    fixed: list[Finding] | None = None
