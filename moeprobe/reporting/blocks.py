"""The findings: a block for each problem, with picture, numbers and consequences; then the notes."""

from moeprobe.findings.evidence import ScaleCurve
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import Document, Figure, Heading, bullets, folded, grid, joined, table, used_columns
from moeprobe.reporting.figures_findings import Profile, Strip, shown
from moeprobe.reporting.grouping import Group, notes, problems
from moeprobe.reporting.text import code, prose, strong
from moeprobe.reporting.words import measured_and_limit, number, plural, ranges, span


def findings(result: Result, pictures: dict[str, Picture]) -> Document:
    """Problems worst first, then notes; empty where nothing was found."""
    blocks = [
        _block(place, group, result, pictures.get(f"finding-{place}"))
        for place, group in enumerate(problems(result), 1)
    ]
    told = bullets([_line(group) for group in notes(result)])
    parts = joined(*blocks, joined(Heading(3, "Notes"), told) if told else ())
    return joined(Heading(2, "Findings"), parts) if parts else ()


def _block(place: int, group: Group, result: Result, picture: Picture | None) -> Document:
    worst = group.worst
    remedies = list(dict.fromkeys([worst.remedy, *(one.remedy for one in group.findings)]))
    facts = [
        f"{strong('Measured:')} {_measured(group)}",
        f"{strong('Experts:')} {ranges(worst.experts)}" if worst.experts and len(group.findings) == 1 else "",
        f"{strong('Points to:')} {_sentence(worst.cause)}",
        *(f"{strong('What to do:')} {_sentence(remedy)}" for remedy in remedies[:3]),
    ]
    below = [_line(consequence) for consequence in group.consequences]
    others = [pair for pair in group.places if pair != (worst.layer, worst.router)]
    return joined(
        Heading(3, f"{place}. {group.severity.capitalize()}: {prose(group.title)}, {where(group.places)}"),
        prose(worst.message) + (f" The same holds for {where(others)}." if others else ""),
        Figure(picture) if picture else "",
        bullets(facts),
        _each(group),
        folded("Numbers of the picture", _numbers(group, result)) if picture else (),
        joined(f"{strong('What follows from it')} and should go with it:", bullets(below)) if below else (),
    )


def _line(group: Group) -> str:
    spread = f", {where(group.places)}" if len(group.findings) > 1 else ""
    return f"{strong(prose(group.title))}, {group.severity}{spread}. {prose(group.worst.message)}"


def _measured(group: Group) -> str:
    worst = group.worst
    alike = [one for one in group.findings if one.quantity == worst.quantity and one.measured is not None]
    if not alike:
        return f"{prose(worst.quantity)}, an exact fault without a limit"
    values = [one.measured for one in alike if one.measured is not None]
    text, limit = measured_and_limit(worst.measured, worst.limit)
    text = text if len(alike) == 1 else span(values)
    setting = f", set by {code(worst.limit_name)}" if worst.limit_name else ""
    return f"{prose(worst.quantity)}: {text}" + ("" if worst.limit is None else f" (limit {limit}{setting})")


def _sentence(text: str) -> str:
    return prose(text) + ("" if text.endswith((".", "!", "?")) else ".")


def _each(group: Group) -> Document:
    """Every finding of a group of several."""
    if len(group.findings) == 1:
        return ()
    rows = used_columns([_row(finding) for finding in group.findings])
    return table(rows) if len(rows) <= 6 else folded(f"All {plural(len(rows), 'finding')}", table(rows))


def _row(finding: Finding) -> dict[str, str]:
    measured, limit = measured_and_limit(finding.measured, finding.limit)
    place = finding.layer if finding.layer is not None else code(finding.router or "whole model")
    return {
        "layer": str(place),
        "severity": finding.severity,
        "quantity": prose(finding.quantity),
        "measured": measured,
        "limit": limit,
        "experts": ranges(finding.experts, most=6) or number(None),
    }


def _numbers(group: Group, result: Result) -> Document:
    what = shown(group, result)
    if isinstance(what, ScaleCurve):
        return points(what)
    if isinstance(what, Profile):
        return grid(what.values)
    if isinstance(what, Strip):
        names = what.axis.names.values()
        return table(
            [
                {
                    what.axis.heading: name,
                    prose(what.label): number(value),
                    "": "found" if x in what.flagged else "",
                }
                for x, name, value in zip(what.axis.xs, names, what.values, strict=True)
            ]
        )
    return ()


def points(curve: ScaleCurve) -> Document:
    """Tabulate a loss curve: multiplier and loss, in nats per token."""
    return table([{"multiplier": number(one.multiplier), "loss": number(one.loss, 5)} for one in curve.points])
