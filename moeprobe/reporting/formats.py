"""Every format of a Result by its name; what a format needs is imported when it is asked for."""

from collections.abc import Callable

from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict


def _text(result: Result, verdict: Verdict | None) -> str:
    from moeprobe.reporting.terminal import summary

    return summary(result, verdict=verdict) + "\n"


def _json(result: Result, _verdict: Verdict | None) -> str:
    return result.model_dump_json(indent=1) + "\n"


def _markdown(result: Result, _verdict: Verdict | None) -> str:
    from moeprobe.reporting.markdown import render

    return render(result, figures=False)


_FORMATS: dict[str, Callable[[Result, Verdict | None], str]] = {"text": _text, "json": _json, "markdown": _markdown}

FORMAT_NAMES: tuple[str, ...] = tuple(_FORMATS)


def render(result: Result, name: str, verdict: Verdict | None = None) -> str:
    """Write a result in the format of this name; ``verdict`` is the outcome where it is a check's."""
    return _FORMATS[name](result, verdict)
