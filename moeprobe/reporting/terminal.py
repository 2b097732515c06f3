"""The result in a few lines of plain text, for the terminal."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from moeprobe.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_NOT_CHECKED
from moeprobe.findings.result import Result
from moeprobe.findings.router import Router
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting import against
from moeprobe.reporting.depth import where
from moeprobe.reporting.drift import nearest
from moeprobe.reporting.grouping import Group, notes, problems
from moeprobe.reporting.routers import bias_rows, router_rows
from moeprobe.reporting.text import plain
from moeprobe.reporting.verdict import subject
from moeprobe.reporting.verdict import verdict as verdict_line
from moeprobe.reporting.words import plural

_WIDTH = 100
_INDENT = " " * 9


_OUTCOMES = {EXIT_CLEAN: "PASSED", EXIT_FINDINGS: "FAILED", EXIT_NOT_CHECKED: "COULD NOT CHECK"}


def summary(result: Result, report: Path | None = None, *, verdict: Verdict | None = None) -> str:
    """Verdict, model, each problem with what to do, and where the full report is, if it was written.

    ``verdict`` is the outcome of a check, whose last line says so.
    """
    lines = [verdict_line(result), ", ".join(subject(result))]
    for group in problems(result):
        lines += ["", *_problem(group)]
    rest = [plural(len(groups), "note") for groups in (notes(result),) if groups]
    rest += [f"{plural(len(result.not_checked), 'thing')} not checked"] if result.not_checked else []
    if rest:
        lines += ["", f"Besides: {', '.join(rest)}."]
    for unread in result.evidence.unread or ():
        lines += [textwrap.fill(f"Not read: {plain(unread.sentence())}: {plain(unread.why)}.", _WIDTH)]
    if result.evidence.base is not None:
        lines += ["", textwrap.fill(f"Against {plain(result.evidence.base.name)}: {plain(nearest(result))}", _WIDTH)]
    if compared := against.lines(result):
        lines += ["", *compared]
    if report is not None:
        lines += ["", f"Report: {report}"]
    if verdict is not None:
        lines += ["", f"{_OUTCOMES[verdict.exit_code]}: {plain(verdict.reason)}."]
    return "\n".join(lines)


def router_table(routers: Sequence[Router]) -> str:
    """Write the facts of the routers as plain tables: the rule, neighbours that agree in one row, and the biases."""
    tables = [router_rows(routers, plain, plain), bias_rows(routers, plain)]
    written = [tabulate(rows, headers="keys", disable_numparse=True) for rows in tables if rows]
    reasons = sorted({router.reason for router in routers if router.reason})
    notes = [f"Not verified: {plain(reason)}." for reason in reasons]
    return "\n\n".join([*written, *notes])


def _problem(group: Group) -> list[str]:
    place = where(group.places, plain)
    follows = f"; {plural(len(group.consequences), 'consequence')}" if group.consequences else ""
    told = [group.worst.message, *(f"{one.title}: {one.worst.message}" for one in group.grave)]
    told += [f"To do: {group.worst.remedy}"]
    return [f"{group.severity:<8} {plain(group.title)}, {place}{follows}"] + [
        textwrap.fill(plain(text), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT) for text in told
    ]
