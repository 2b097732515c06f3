"""Every format of a Result by its name; what a format needs is imported when it is asked for."""

import json
import re
from collections.abc import Callable

from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict


def _text(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.terminal import summary

    return summary(result, verdict=verdict) + "\n"


def _json(result: Result, _verdict: Verdict | None) -> str:
    # In ASCII, since a terminal acts on some of the characters that JSON lets stand.
    return json.dumps(json.loads(result.model_dump_json()), indent=1, ensure_ascii=True) + "\n"


def _markdown(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.markdown import render

    return render(result, verdict)


def _html(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.html import render

    return render(result, verdict)


def _junit(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.junit import render

    return render(result, verdict)


def _sarif(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.sarif import render

    return render(result, verdict)


def _github(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.github import append_summary, render

    append_summary(result, verdict)
    return render(result, verdict)


_FORMATS: dict[str, Callable[[Result, Verdict | None], str]] = {
    "text": _text,
    "json": _json,
    "markdown": _markdown,
    "html": _html,
    "junit": _junit,
    "sarif": _sarif,
    "github": _github,
}

FORMAT_NAMES: tuple[str, ...] = tuple(_FORMATS)

_HARMLESS = {
    "text": "# #[", "markdown": "# #[", "json": "#\\u0023[", "sarif": "#\\u0023[",
    "html": "#&#35;[", "junit": "#&#35;[", "github": "# #[",
}  # fmt: skip
"""How ``##[`` is written in a format: a runner of GitHub takes it for a command wherever it stands in a log."""
_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def render(result: Result, name: str, verdict: Verdict | None = None) -> str:
    """Write a result in the format of this name; ``verdict`` is the outcome where it is a check's.

    What is written can be printed in a log of GitHub Actions: no name in it is taken for a workflow command. A pure
    function but for one: ``github`` also appends its summary to the file in ``GITHUB_STEP_SUMMARY``, where a runner
    has set it.
    """
    written = _FORMATS[name](result, verdict)
    if name != "github":
        written = _COMMAND.sub(r"\1: ", written)
    return written.replace("##[", _HARMLESS[name])
