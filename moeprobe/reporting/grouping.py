"""Findings grouped for a reader: one fault on many layers is one group, what follows from it below."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from moeprobe.findings.finding import SEVERITIES, WHOLE_MODEL, Finding, Severity
from moeprobe.findings.result import Result


@dataclass(frozen=True)
class Group:
    """Findings of one detector with one cause, in order of layers, and the groups that follow from them."""

    findings: tuple[Finding, ...]
    consequences: tuple["Group", ...] = ()

    @property
    def severity(self) -> Severity:
        """The worst among the findings and their consequences: a mild fault can have a severe one behind it."""
        return min(self._severities, key=SEVERITIES.index)

    @property
    def _severities(self) -> list[Severity]:
        own: list[Severity] = [finding.severity for finding in self.findings]
        return own + [group.severity for group in self.consequences]

    @property
    def worst(self) -> Finding:
        """Of its own findings with the worst severity the one farthest beyond its limit."""
        own = min((finding.severity for finding in self.findings), key=SEVERITIES.index)
        return max((one for one in self.findings if one.severity == own), key=_excess)

    @property
    def grave(self) -> "tuple[Group, ...]":
        """Consequences that are no mere infos: they were judged worse than what they follow from."""
        return tuple(group for group in self.consequences if group.severity != "info")

    @property
    def title(self) -> str:
        """Name and code of the detector."""
        return f"{self.worst.detector} ({self.worst.code})"

    @property
    def places(self) -> list[tuple[int | None, str | None]]:
        """Layer and router of each finding."""
        return [(finding.layer, finding.router) for finding in self.findings]


def problems(result: Result) -> list[Group]:
    """Errors and warnings worst first; findings that follow from another router's hang below its group."""
    homes = _homes(result.findings)
    roots = _grouped(
        one for one, home in zip(result.findings, homes, strict=True) if home is None and one.severity != "info"
    )
    first = {_place(one): place for place, group in reversed(list(enumerate(roots))) for one in group.findings}
    below: dict[int, list[Finding]] = defaultdict(list)
    for finding, home in zip(result.findings, homes, strict=True):
        if home is not None:
            below[first[home]].append(finding)
    whole = [Group(group.findings, tuple(_grouped(below[place]))) for place, group in enumerate(roots)]
    return sorted(whole, key=lambda group: SEVERITIES.index(group.severity))


def notes(result: Result) -> list[Group]:
    """Infos that stand for themselves."""
    homes = _homes(result.findings)
    return _grouped(
        one for one, home in zip(result.findings, homes, strict=True) if home is None and one.severity == "info"
    )


def _homes(findings: list[Finding]) -> list[str | None]:
    """Find the place of the problem at the start of each finding's chain, None where it is the start itself."""
    starts = {_place(one) for one in findings if one.follows is None and one.severity != "info"}
    chain = {_place(one): one.follows for one in reversed(findings) if one.follows is not None}
    homes: list[str | None] = []
    for finding in findings:
        place, seen = finding.follows, set[str]()
        while place is not None and place not in starts and place not in seen:
            seen.add(place)
            place = chain.get(place)
        homes.append(place if place in starts else None)
    return homes


def _place(finding: Finding) -> str:
    """Give the path that the ``follows`` of a consequence would hold."""
    return finding.router or WHOLE_MODEL


def _grouped(findings: Iterable[Finding]) -> list[Group]:
    groups: dict[tuple[bool, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity == "info", finding.detector, finding.cause].append(finding)
    made = [Group(tuple(sorted(one, key=lambda f: (f.layer is None, f.layer or 0)))) for one in groups.values()]
    return sorted(made, key=lambda group: SEVERITIES.index(group.severity))


def _excess(finding: Finding) -> float:
    """How far beyond the limit, as the size of a logarithm; an exact fault counts as infinitely far."""
    if finding.measured is None or finding.limit is None or not math.isfinite(finding.measured):
        return math.inf
    if finding.measured * finding.limit <= 0:
        return abs(finding.measured - finding.limit)
    return abs(math.log(finding.measured / finding.limit))
