"""The report: its parts, in the order in which a reader wants them, as blocks that any format can write."""

from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.against import against
from moeprobe.reporting.appendix import tables
from moeprobe.reporting.blocks import findings
from moeprobe.reporting.document import Document, Heading, joined
from moeprobe.reporting.drift import against_base
from moeprobe.reporting.evidence import evidence, unchecked
from moeprobe.reporting.experts import experts
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.glance import glance
from moeprobe.reporting.method import method
from moeprobe.reporting.text import code, strong
from moeprobe.reporting.verdict import judgement, subject, verdict


def report(result: Result, judged: Verdict | None = None) -> Document:
    """All parts; ``judged`` is the outcome of a check, where there was one."""
    drawn = pictures(result)
    return joined(
        short(result, judged),
        against_base(result, drawn),
        glance(result, drawn),
        experts(result, drawn),
        evidence(result),
        unchecked(result),
        method(result),
        tables(result),
    )


def short(result: Result, judged: Verdict | None = None) -> Document:
    """The verdict, the findings, and what changed against the baseline."""
    name, *about = subject(result)
    return joined(
        Heading(1, f"Routing of {code(name)}"),
        strong(verdict(result)),
        judgement(judged) if judged else "",
        " · ".join(about),
        findings(result, pictures(result)),
        against(result),
    )
