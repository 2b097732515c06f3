"""The result in a few lines of plain text, for the terminal."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from moeprobe.findings.result import Result
from moeprobe.findings.router import Router
from moeprobe.reporting.depth import where
from moeprobe.reporting.grouping import Group, notes, problems
from moeprobe.reporting.routers import bias_rows, router_rows
from moeprobe.reporting.text import plain
from moeprobe.reporting.verdict import subject, verdict
from moeprobe.reporting.words import plural

_WIDTH = 100
_INDENT = " " * 9


def summary(result: Result, report: Path | None = None) -> str:
    """Verdict, model, each problem with what to do, and where the full report is, if it was written."""
    lines = [verdict(result), ", ".join(subject(result))]
    for group in problems(result):
        lines += ["", *_problem(group)]
    rest = [plural(len(groups), "note") for groups in (notes(result),) if groups]
    rest += [f"{plural(len(result.not_checked), 'thing')} not checked"] if result.not_checked else []
    if rest:
        lines += ["", f"Besides: {', '.join(rest)}."]
    if report is not None:
        lines += ["", f"Report: {report}"]
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
    told = [f"{group.worst.message}", f"To do: {group.worst.remedy}"]
    return [f"{group.severity:<8} {plain(group.title)}, {place}{follows}"] + [
        textwrap.fill(plain(text), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT) for text in told
    ]
