"""Nearly: what a baseline was near to, found by judging its evidence once more by limits that are a little easier.

A number at the edge of a limit may cross it without anything having happened. Detectors are pure functions of the
evidence, and a saved result holds it, so what the baseline nearly had is not guessed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from moeprobe.detectors.case import Limits
from moeprobe.detectors.detector import Detector
from moeprobe.detectors.wording import number
from moeprobe.findings.baseline import NEARLY, covers
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import Finding


def nearly(
    before: Evidence, findings: Sequence[Finding], detectors: Sequence[Detector[Any]], limits: Mapping[str, Limits]
) -> dict[str, Finding]:
    """By fingerprint of a finding: what the baseline's evidence gives by limits that are easier by ``NEARLY``.

    Only findings that crossed a limit are looked for, at the same router, for the same cause and experts and by the
    same limit. What a detector cannot make of the old evidence is left out.
    """
    found: dict[str, Finding] = {}
    for detector in detectors:
        mine = [one for one in findings if one.detector == detector.name and _crossed(one)]
        if not mine:
            continue
        try:
            easier = _easier(limits[detector.name], mine)
            then = detector.judge(before, easier).findings
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            # Evidence of an older version may lack what this detector reads now.
            continue
        for now in mine:
            like = next((one for one in then if _same(one, now)), None)
            if like is not None:
                found[now.fingerprint] = like
    return found


def said(now: Finding, before: Finding | None) -> Finding:
    """The finding, with what the baseline nearly had in its message."""
    if before is None or before.measured is None or now.measured is None or now.limit is None:
        return now
    if (before.measured > now.limit) == (now.measured > now.limit):
        # It had all of it.
        return now
    told = (
        f"The baseline nearly had this: {number(before.measured)}, now {number(now.measured)}, and the limit is "
        f"{number(now.limit)} ({now.quantity})"
    )
    return now.model_copy(update={"message": f"{now.message} {told}."})


def _crossed(found: Finding) -> bool:
    return bool(found.limit_name and found.limit and found.measured) and found.severity != "info"


def _easier(limits: Limits, findings: Sequence[Finding]) -> Limits:
    """The limits, those that were crossed moved towards the harmless side; one that cannot be moved stays."""
    for found in findings:
        assert found.limit_name is not None
        assert found.limit is not None
        assert found.measured is not None
        name = found.limit_name.rpartition(".")[2]
        value = found.limit / NEARLY if found.measured > found.limit else found.limit * NEARLY
        try:
            limits = type(limits).model_validate(dict(limits) | {name: value})
        except ValidationError:
            continue
    return limits


def _same(before: Finding, now: Finding) -> bool:
    alike = (before.router, before.cause, before.limit_name) == (now.router, now.cause, now.limit_name)
    return alike and before.measured is not None and covers(before, now)
