"""GitHub: annotations as workflow commands, one a detector, and the short report as the summary of the step.

    ::error title=scale-mismatch (MP401)::Layer 4: the loss is least with the routed branch multiplied by 0.0477 ...

A step shows at most 10 errors, 10 warnings and 10 notices; a summary holds at most 1 MiB.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from moeprobe.errors import OutputError
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import Document, Heading, Paragraph, joined, without_figures
from moeprobe.reporting.drift import against_base
from moeprobe.reporting.grouping import Group
from moeprobe.reporting.markdown import write
from moeprobe.reporting.report import short
from moeprobe.reporting.standing import standing, title
from moeprobe.reporting.text import bare, plain
from moeprobe.reporting.verdict import judgement, verdict
from moeprobe.reporting.words import plural

MOST = 10
"""Annotations of one level that a step shows."""
SUMMARY_BYTES = 1024 * 1024
_ROOM = 600
"""Bytes kept for the sentence that says what was cut."""


def render(result: Result, judged: Verdict | None = None) -> str:
    """Write the workflow commands, worst first, and last a notice with the verdict."""
    by_detector: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_detector.setdefault(finding.detector, []).append(finding)
    levels: dict[str, list[str]] = {"error": [], "warning": [], "notice": []}
    names: dict[str, list[str]] = {level: [] for level in levels}
    for findings in by_detector.values():
        level, shown = _worst(findings, judged)
        levels[level].append(_command(level, title(shown.worst), _told(shown)))
        names[level].append(title(shown.worst))
    outcome = f"{judgement(judged)} {verdict(result)}" if judged else verdict(result)
    commands = [
        *_within(levels["error"], names["error"], "error", MOST),
        *_within(levels["warning"], names["warning"], "warning", MOST),
        *_within(levels["notice"], names["notice"], "notice", MOST - 1),
        _command("notice", "moeprobe", outcome),
    ]
    return "\n".join(commands) + "\n"


def step_summary(result: Result, judged: Verdict | None = None, room: int = SUMMARY_BYTES) -> str:
    """Write verdict, findings and what changed against baseline or base model as Markdown of at most ``room`` bytes.

    What does not fit is left out whole blocks at a time, and the last sentence says so.
    """
    document = without_figures(joined(short(result, judged), against_base(result, {})))
    whole = write(document)
    if len(whole.encode()) <= room:
        return whole
    kept: list[str] = []
    left = room - _ROOM
    for place, block in enumerate(document):
        text = write((block,))
        left -= len(text.encode()) + 1
        if left < 0:
            return "\n".join([*kept, write((Paragraph(_cut(document[place:])),))])
        kept.append(text)
    return "\n".join(kept)


def append_summary(result: Result, judged: Verdict | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Append the summary to the file in ``GITHUB_STEP_SUMMARY``; do nothing where that is not set.

    Raises:
        OutputError: the file cannot be written.

    """
    file = environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return
    try:
        path = Path(file)
        room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        with path.open("a", encoding="utf-8", newline="\n") as summary:
            summary.write(step_summary(result, judged, room) if room > _ROOM else "")
    except OSError as error:
        raise OutputError(
            f"Cannot write the step summary {file}: {error.strerror or error}. Unset GITHUB_STEP_SUMMARY to go without."
        ) from error


def _worst(findings: Iterable[Finding], judged: Verdict | None) -> tuple[str, Group]:
    """Level of a detector's annotation, and the findings that it speaks of: those of the worst standing."""
    by_level: dict[str, list[Finding]] = {}
    for finding in findings:
        how = standing(finding, judged)
        level = "error" if how == "failing" else "notice" if how == "known" else finding.severity
        by_level.setdefault("notice" if level == "info" else level, []).append(finding)
    level = next(level for level in ("error", "warning", "notice") if level in by_level)
    return level, Group(tuple(by_level[level]))


def _told(group: Group) -> str:
    others = [pair for pair in group.places if pair != (group.worst.layer, group.worst.router)]
    more = f"\nAlso found: {where(others, plain)}." if others else ""
    return f"{plain(group.worst.message)}{more}\nTo do: {plain(group.worst.remedy)}"


def _within(commands: list[str], names: list[str], level: str, most: int) -> list[str]:
    """Keep what GitHub shows; the last one names the rest."""
    if len(commands) <= most:
        return commands
    rest = names[most - 1 :]
    said = f"GitHub shows no more than {MOST} of them, so only named: {', '.join(rest)}"
    return [*commands[: most - 1], _command(level, f"{plural(len(rest), 'more detector')}", said)]


def _command(level: str, heading: str, message: str) -> str:
    """Write a workflow command; percent signs, line ends, colons and commas are escaped as the runner decodes them."""
    data = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    value = heading.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    value = value.replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={value}::{data}"


def _cut(rest: Document) -> str:
    headings = [plain(bare(block.text))[:60] for block in rest if isinstance(block, Heading)]
    named = "; ".join(headings[:4]) + (f" and {len(headings) - 4:,} more" if len(headings) > 4 else "")
    what = f": {named}" if headings else ""
    return (
        f"Cut here, since GitHub takes at most 1 MiB: {plural(len(rest), 'block')} left out{what}. "
        "The whole report is what moeprobe writes with the format markdown or html."
    )
