"""What a check against a baseline found: new, known and fixed."""

from collections.abc import Sequence

from moeprobe.findings.finding import Finding
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import Document, Heading, bullets, folded, joined
from moeprobe.reporting.text import prose, strong
from moeprobe.reporting.words import plural

_SHOWN = 20


def against_baseline(judged: Verdict) -> Document:
    """List the new findings, and fold those that were known and those that are gone."""
    if judged.new is None and judged.known is None and judged.fixed is None:
        return ()
    new, known, fixed = judged.new or [], judged.known or [], judged.fixed or []
    counts = f"{len(new):,} new, {len(known):,} known, {len(fixed):,} fixed."
    return joined(
        Heading(2, "Against the baseline"),
        counts,
        _listed(new),
        folded(f"Known: {plural(len(known), 'finding')}", _listed(known)),
        folded(f"Fixed: {plural(len(fixed), 'finding')}", _listed(fixed)),
    )


def _listed(findings: Sequence[Finding]) -> Document:
    told = [
        f"{strong(prose(f'{one.detector} ({one.code})'))}, {one.severity}, {where([(one.layer, one.router)])}. "
        f"{prose(one.message)}"
        for one in findings[:_SHOWN]
    ]
    more = len(findings) - _SHOWN
    return bullets([*told, f"and {more:,} more" if more > 0 else ""])
