"""What each detector looked at, router by router, beside its limits and its verdicts."""

from collections import Counter

from moeprobe.findings.result import Result
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import Document, Heading, Paragraph, bullets, folded, joined, table
from moeprobe.reporting.quantities import CHOICE, EVIDENCE, GRADIENT
from moeprobe.reporting.sheets import sheet
from moeprobe.reporting.text import code, plain, prose
from moeprobe.reporting.words import number


def evidence(result: Result) -> Document:
    """Fold one table a detector; one that is not known here has verdicts and limits only."""
    detectors = list(dict.fromkeys(check.detector for check in result.checks))
    if not detectors:
        return ()
    return joined(Heading(2, "Evidence, detector by detector"), *(_detector(result, name) for name in detectors))


def _detector(result: Result, detector: str) -> Document:
    checks = [check for check in result.checks if check.detector == detector]
    counts = Counter[str](check.verdict for check in checks)
    told = ", ".join(f"{counts[verdict]} {word}" for verdict, word in _VERDICTS.items() if counts[verdict])
    limits = result.limits.get(detector, {})
    bars = ", ".join(f"{code(name)} {number(value, 4)}" for name, value in limits.items())
    tried = _tried(result, detector)
    verdicts = {
        path: tried.get(path, {}) | {"verdict": str(check.verdict)} for check in checks if (path := check.router or "")
    }
    body = joined(
        f"Limits: {bars}." if bars else "",
        sheet(result.evidence.routers, EVIDENCE.get(detector, ()), verdicts),
    )
    return folded(f"{plain(detector)}: {told}", body) or (Paragraph(f"{plain(detector)}: {told}"),)


def _tried(result: Result, detector: str) -> dict[str, dict[str, str]]:
    """Cells of the experiments that the detector looks at, by router path."""
    made = result.evidence.experiments
    if made is None:
        return {}
    if detector == "permuted-experts":
        return {test.router: {label: text(test) for label, text in CHOICE.items()} for test in made.choice}
    if detector == "sqrt-nan":
        return {path: {label: text(one) for label, text in GRADIENT.items()} for path, one in made.gradient.items()}
    return {}


_WEIGHED = "weights clean, rest skipped"
_VERDICTS = {"finding": "with a finding", "clean": "clean", "skipped": "skipped", "failed": "failed to run"}


def unchecked(result: Result) -> Document:
    """Tell what was not checked, and why: skipped and failed checks by reason, then the rest."""
    layers = {one.router.path: one.router.layer for one in result.evidence.routers}
    groups: dict[tuple[str, str, str], list[tuple[int | None, str | None]]] = {}
    for check in sorted(result.checks, key=lambda check: check.verdict):  # failed before skipped
        if check.verdict in ("failed", "skipped"):
            partly = result.weights_only and check.weighed and check.verdict == "skipped"
            key = (check.detector, _WEIGHED if partly else check.verdict, check.reason)
            groups.setdefault(key, []).append((layers.get(check.router or ""), check.router))
    rows = [
        {
            "detector": plain(detector),
            "where": where(places),
            "verdict": verdict,
            "why": prose(reason) or "no reason given",
        }
        for (detector, verdict, reason), places in groups.items()
    ]
    rest = bullets([f"{prose(one.what)}: {prose(one.why)}" for one in result.not_checked])
    unverified = [one.router for one in result.evidence.routers if not one.router.verified and one.router.reason]
    reasons: dict[str, list[str]] = {}
    for one in unverified:
        reasons.setdefault(one.reason, []).append(one.path)
    # What is so for every router is said once.
    alike = len(reasons) == 1 and 1 < len(unverified) == len(result.evidence.routers)
    doubts = bullets(
        [f"No router was verified: {prose(reason)}" for reason in reasons]
        if alike
        else [f"{code(one.path)} was not verified: {prose(one.reason)}" for one in unverified]
    )
    return joined(
        Heading(2, "What was not checked"),
        table(rows),
        rest,
        doubts,
        "" if rows or rest or doubts else "Nothing was left out.",
    )
