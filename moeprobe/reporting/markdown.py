"""The report as Markdown: its parts, in the order in which a reader wants them."""

from moeprobe.findings.result import Result
from moeprobe.reporting.appendix import tables
from moeprobe.reporting.blocks import findings
from moeprobe.reporting.drift import against_base
from moeprobe.reporting.escape import code, inline
from moeprobe.reporting.evidence import evidence, unchecked
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.glance import glance
from moeprobe.reporting.method import method
from moeprobe.reporting.tables import joined
from moeprobe.reporting.verdict import subject, verdict


def render(result: Result) -> str:
    """Write the whole report as GitHub Markdown; its figures are ``figures/*.svg``, see ``write_report``."""
    drawn = pictures(result)
    parts = [
        findings(result, drawn),
        against_base(result, drawn),
        glance(result, drawn),
        evidence(result),
        unchecked(result),
        method(result),
        tables(result),
    ]
    return joined(_head(result), *parts) + "\n"


def _head(result: Result) -> str:
    name, *about = subject(result)
    return joined(f"# Routing of {code(name)}", f"**{inline(verdict(result))}**", inline(" · ".join(about)))
