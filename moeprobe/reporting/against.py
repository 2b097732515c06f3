"""Against the baseline: what is new, what was known, what is fixed, and what that leaves open."""

from collections.abc import Sequence

from moeprobe.findings.baseline import Comparison
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import Document, Heading, bullets, joined, table
from moeprobe.reporting.text import plain, prose
from moeprobe.reporting.words import plural


def against(result: Result) -> Document:
    """Write the section of the report; nothing without a baseline."""
    if result.baseline is None:
        return ()
    compared = result.baseline
    rows = [row for name, found in split(result) for row in _rows(name, found, compared)]
    return joined(
        Heading(2, "Against the baseline"),
        f"{named(compared)}. {counts(result)}",
        table(rows),
        bullets([prose(remark) for remark in [*compared.remarks, *_lost(compared)]]),
    )


def split(result: Result) -> list[tuple[str, list[Finding]]]:
    """Name the four parts and their findings; none without a baseline."""
    compared = result.baseline
    if compared is None:
        return []
    return [
        ("new", [one for one in result.findings if one.fingerprint in compared.new]),
        ("known", [one for one in result.findings if one.fingerprint in compared.known]),
        ("fixed", compared.fixed),
        ("not checked now", compared.unjudged),
    ]


def counts(result: Result) -> str:
    """``1 new problem, 2 known, 0 fixed; besides 3 new notes``: errors and warnings first."""
    parts = split(result)
    problems = {name: sum(one.severity != "info" for one in found) for name, found in parts}
    new = problems.pop("new", 0)
    told = [plural(new, "new problem")] + [
        f"{n} {name}" for name, n in problems.items() if n or name != "not checked now"
    ]
    infos = [f"{n} {name}" for name, found in parts if (n := sum(one.severity == "info" for one in found))]
    return ", ".join(told) + (f" (and notes: {', '.join(infos)})" if infos else "") + "."


def named(compared: Comparison) -> str:
    """Which baseline it is: model, revision and day, as plain text."""
    revision = f", revision {plain(compared.revision)[:12]}" if compared.revision else ""
    return f"Baseline: {plain(compared.model)}{revision}, measured {plain(compared.started)[:10]}"


def lines(result: Result) -> list[str]:
    """The same for a terminal, each problem in a line."""
    if result.baseline is None:
        return []
    told = [f"{named(result.baseline)}: {counts(result)}"]
    for name, found in split(result):
        for (severity, detector, _), alike in _alike(found).items():
            if severity != "info":
                was = _was(alike, result.baseline)
                places = where([(one.layer, one.router) for one in alike], plain)
                told.append(f"  {name:<15} {severity:<8} {plain(detector)}, {places}{was}")
    return told + [f"  {plain(remark)}" for remark in [*result.baseline.remarks, *_lost(result.baseline)]]


def _rows(name: str, findings: Sequence[Finding], compared: Comparison) -> list[dict[str, str]]:
    return [
        {
            "": name,
            "severity": severity + _was(alike, compared),
            "detector": plain(detector),
            "where": where([(one.layer, one.router) for one in alike]),
            "points to": prose(cause),
        }
        for (severity, detector, cause), alike in _alike(findings).items()
    ]


def _alike(findings: Sequence[Finding]) -> dict[tuple[str, str, str], list[Finding]]:
    """The findings of one fault on many layers, together; problems first."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in sorted(findings, key=lambda one: one.severity == "info"):
        groups.setdefault((one.severity, one.detector, one.cause), []).append(one)
    return groups


def _was(findings: Sequence[Finding], compared: Comparison) -> str:
    keys = [one.fingerprint for one in findings]
    before = {compared.risen[key] for key in keys if key in compared.risen}
    numbers = [
        f"{said} {min(values):.3g}"
        for said, values in (
            ("nearly there at", [compared.nearly[key] for key in keys if key in compared.nearly]),
            ("grown from", [compared.grown[key] for key in keys if key in compared.grown]),
        )
        if values
    ]
    words = ([f"was {' or '.join(sorted(before))}"] if before else []) + numbers
    return f" ({', '.join(words)})" if words else ""


def _lost(compared: Comparison) -> list[str]:
    return [
        f"{detector} at {router or 'the whole model'} gave an answer in the baseline and failed to run now."
        for detector, router in compared.lost
    ]
