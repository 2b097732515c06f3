"""The verdict in one line, and what was looked at in another."""

from collections.abc import Sequence

from moeprobe.errors import EXIT_CLEAN, EXIT_FINDINGS
from moeprobe.findings.finding import SEVERITIES
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.grouping import Group, problems
from moeprobe.reporting.text import plain
from moeprobe.reporting.words import plural


def verdict(result: Result) -> str:
    """``2 problems (1 error, 1 warning) in 3 of 48 routers; 231 checks clean, 9 skipped.``"""
    clean, found = result.count("clean"), result.count("finding")
    if not clean and not found and not result.weighed:
        return f"Nothing was checked: {plural(len(result.checks), 'check')} skipped or failed."
    counts = [f"{plural(clean, 'check')} clean"]
    counts += [f"{result.weighed:,} clean as far as the weights tell"] * bool(result.weighed)
    skipped = result.count("skipped") - result.weighed
    counts += [f"{skipped:,} skipped"] * bool(skipped)
    counts += [f"{result.count('failed'):,} failed to run"] * bool(result.count("failed"))
    blocked = sum(one.blocking for one in result.not_checked)
    counts += [f"{plural(blocked, 'thing')} that could not be checked"] * bool(blocked)
    return f"{_problems(problems(result), len(result.evidence.routers))}; {', '.join(counts)}."


def subject(result: Result) -> list[str]:
    """Model, revision, dtype, how it was read, and the day: plain text, not yet escaped."""
    model = result.model
    measured = any(one.activations for one in result.evidence.routers)
    return [
        plain(model.name),
        f"revision {plain(model.revision)[:12]}" if model.revision else "no revision known",
        plain(model.dtype),
        "weights and activations" if measured else "weights only: nothing that needs a forward pass was checked",
        plain(result.environment.started)[:10],
    ]


def _problems(groups: Sequence[Group], routers: int) -> str:
    if not groups:
        return f"No problems in {plural(routers, 'router')}"
    severities = [sum(group.severity == severity for group in groups) for severity in SEVERITIES]
    split = ", ".join(plural(n, name) for n, name in zip(severities, SEVERITIES, strict=True) if n)
    findings = [finding for group in groups for finding in group.findings]
    touched = len({finding.router for finding in findings} - {None})
    spots = [f"{touched} of {plural(routers, 'router')}"] if touched else []
    spots += ["the model as a whole"] if any(finding.router is None for finding in findings) else []
    return f"{plural(len(groups), 'problem')} ({split}) in {' and '.join(spots)}"


def judgement(judged: Verdict) -> str:
    """``Check failed: 2 new findings of severity error.``"""
    outcome = {EXIT_CLEAN: "passed", EXIT_FINDINGS: "failed"}.get(judged.exit_code, "could not be done")
    return f"Check {outcome}: {plain(judged.reason).rstrip('.')}."
