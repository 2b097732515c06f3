"""A baseline: an earlier result, normally of the base model, that the findings of this one are held against.

Findings are told apart by detector, router, cause and experts. One is *known* if the baseline has it at the same
router, for the same cause, at least as severe, and for at least the same experts; else it is *new*. At a limit, growth
counts and not the crossing: one that the baseline nearly had, and that hardly grew, is known; a load that the
baseline had, and whose number doubled, is new. A finding of the baseline is *fixed* only if its detector really judged
its router now.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from moeprobe.errors import BaselineError
from moeprobe.findings.evidence import Probe
from moeprobe.findings.finding import SEVERITIES, Check, Finding, Severity
from moeprobe.findings.plain import Plain
from moeprobe.recipe import Recipe

if TYPE_CHECKING:
    from moeprobe.findings.result import Result

_FREE = {"name", "description", "model_types", "select", "ignore", "limits", "fail_on", "specialisation"}
"""What a recipe may change without another measurement of what is judged."""
_FREE_PROBE = {"texts", "batch_tokens"}
"""The texts are compared by their tokens, not by the name of their file; batches change nothing but rounding."""


NEARLY = 1.2
"""What is within this factor of a limit nearly crossed it, and less growth than that is none: between 4.9 and 5.03 fair
shares of 8 among 64 experts the odds grow by 1.07. No published pair of models was measured on one text."""
DOUBLED = 2.0
"""Growth from which a load that the baseline had already is new."""
GROWING = ("overloaded-experts", "dead-experts")
"""Detectors whose number is the size of the fault; elsewhere a larger number is the same fault."""

Limits = Mapping[str, Mapping[str, float]]
"""By detector and name."""


class Comparison(Plain):
    """How the findings stand to a baseline.

    ``new`` and ``known`` hold fingerprints of this result's findings, ``risen`` the severity in the baseline of
    new ones that were milder there. ``nearly`` holds what the baseline measured for findings that it nearly had,
    ``grown`` what it measured for those that it had and that doubled. ``fixed`` are findings of the baseline that are
    gone, ``unjudged`` those whose detector did not judge their router now. ``lost`` are the checks (detector, router)
    that gave an answer in the baseline and failed to run now. ``remarks`` say what makes the comparison less than it
    seems.
    """

    model: str
    revision: str | None
    started: str
    new: list[str]
    known: list[str]
    risen: dict[str, Severity]
    nearly: dict[str, float] = {}
    grown: dict[str, float] = {}
    fixed: list[Finding]
    unjudged: list[Finding]
    lost: list[tuple[str, str | None]]
    remarks: list[str]


def refuse_other_measurement(baseline: "Result", model_type: str, recipe: Recipe) -> None:
    """Do nothing if the baseline is of this model type and was measured in this way.

    Raises:
        BaselineError: it is of another model type, or its recipe measured something else.

    """
    if baseline.model.model_type != model_type:
        raise BaselineError(
            f"The baseline is of a model of type {baseline.model.model_type}, and this one is of type {model_type}; "
            "give a baseline of the same architecture."
        )
    then, now = _measured(baseline.recipe), _measured(recipe.model_dump())
    known = _measured(Recipe(name="").model_dump())
    for key in sorted(now.keys() | then.keys()):
        # A setting that the baseline does not know yet was not there to be changed: it had its default.
        before, after = then.get(key, known.get(key)), now.get(key, None)
        if before != after:
            raise BaselineError(
                f"The baseline was measured with {key} = {before}, and this analysis with {after} (recipes "
                f"{baseline.recipe.get('name')} and {recipe.name}); use the same recipe for both."
            )


def refuse_other_probe(baseline: "Result", probe: Probe) -> None:
    """Do nothing if the baseline read the same tokens.

    Raises:
        BaselineError: it read other texts, or through another tokenizer, or none at all.

    """
    then = baseline.evidence.probe
    if then is None:
        raise BaselineError(
            "The baseline read no texts, since its forward pass failed or was left out; make one that did."
        )
    if then.sources != probe.sources:
        raise BaselineError(
            f"The baseline read other texts: {_sources(then)}, and this analysis {_sources(probe)}; "
            "give both the same texts (--probe) and the same number of tokens (--max-tokens)."
        )
    if then.tokens_by_source != probe.tokens_by_source or (then.digest and then.digest != probe.digest):
        raise BaselineError(
            f"The baseline read other tokens ({then.tokens:,}, this analysis {probe.tokens:,}) from as many documents: "
            "the tokenizers, the vocabularies or the texts differ; give both the same with --tokenizer and --probe."
        )


def compare(
    baseline: "Result",
    checks: Sequence[Check],
    findings: Sequence[Finding],
    limits: Limits,
    nearly: Mapping[str, Finding] | None = None,
) -> Comparison:
    """Split findings into new, known and fixed.

    Args:
        baseline: the earlier result.
        checks: of this result.
        findings: of this result.
        limits: those that they were judged by.
        nearly: by fingerprint, what the baseline shows by slightly easier limits.

    """
    before: dict[tuple[str, str | None, str], list[Finding]] = {}
    for finding in baseline.findings:
        before.setdefault(_fault(finding), []).append(finding)
    new, known, risen = list[str](), list[str](), dict[str, Severity]()
    close, grown = dict[str, float](), dict[str, float]()
    for finding in findings:
        like = [one for one in before.get(_fault(finding), []) if covers(one, finding)]
        worst = min(like, key=lambda one: SEVERITIES.index(one.severity), default=None)
        almost = (nearly or {}).get(finding.fingerprint)
        if worst is None and almost is not None and almost.measured:
            close[finding.fingerprint] = float(almost.measured)
        if worst is not None and SEVERITIES.index(worst.severity) <= SEVERITIES.index(finding.severity):
            doubled = finding.detector in GROWING and growth(worst, finding) >= DOUBLED
            (new if doubled else known).append(finding.fingerprint)
            if doubled and worst.measured:
                grown[finding.fingerprint] = float(worst.measured)
        elif almost is not None and growth(almost, finding) < NEARLY:
            known.append(finding.fingerprint)
        else:
            new.append(finding.fingerprint)
            if worst is not None:
                risen[finding.fingerprint] = worst.severity
    judged = {(check.detector, check.router) for check in checks if check.verdict in ("clean", "finding")}
    gone = [one for one in baseline.findings if not any(_still_there(one, finding) for finding in findings)]
    failed = {(check.detector, check.router) for check in checks if check.verdict == "failed"}
    before_judged = {(c.detector, c.router) for c in baseline.checks if c.verdict in ("clean", "finding")}
    return Comparison(
        model=baseline.model.name,
        revision=baseline.model.revision,
        started=baseline.environment.started,
        new=new,
        known=known,
        risen=risen,
        nearly=close,
        grown=grown,
        fixed=[one for one in gone if (one.detector, one.router) in judged],
        unjudged=[one for one in gone if (one.detector, one.router) not in judged],
        lost=sorted(failed & before_judged, key=str),
        remarks=_remarks(baseline, checks, [f for f in findings if f.fingerprint in new], before_judged, limits),
    )


def _measured(recipe: dict[str, object]) -> dict[str, object]:
    """The settings that decide what is measured, flat: ``scale.max_tokens`` and its value."""
    flat: dict[str, object] = {}
    for key, value in recipe.items():
        if key in _FREE:
            continue
        if isinstance(value, dict):
            flat |= {
                f"{key}.{name}": one for name, one in value.items() if not (key == "probe" and name in _FREE_PROBE)
            }
        else:
            flat[key] = value
    return flat


def _sources(probe: Probe) -> str:
    return f"{probe.documents} documents of {len(probe.sources)} sources ({probe.name})"


def _fault(finding: Finding) -> tuple[str, str | None, str]:
    return finding.detector, finding.router, finding.cause


def growth(before: Finding, now: Finding) -> float:
    """By which factor the number moved further from the harmless side of its limit; 1 where that is not known."""
    then, value, limit = before.measured, now.measured, now.limit
    if not then or not value or limit is None or before.limit_name != now.limit_name or then * value < 0:
        return 1.0
    return value / then if value > limit else then / value


def covers(before: Finding, now: Finding) -> bool:
    """Whether the experts of ``now`` were all concerned before; none named means the router as a whole."""
    return not before.experts or (bool(now.experts) and set(now.experts) <= set(before.experts))


def _still_there(before: Finding, now: Finding) -> bool:
    """Whether a part of what was found before is found now."""
    if _fault(before) != _fault(now):
        return False
    return not before.experts or not now.experts or bool(set(before.experts) & set(now.experts))


def _remarks(
    baseline: "Result",
    checks: Sequence[Check],
    new: Sequence[Finding],
    before_judged: set[tuple[str, str | None]],
    limits: Limits,
) -> list[str]:
    remarks = []
    ran_before = {check.detector for check in baseline.checks}
    absent = sorted({check.detector for check in checks} - ran_before)
    if absent:
        remarks.append(f"The baseline did not run {', '.join(absent)}: every finding of theirs counts as new.")
    unjudged = sorted({f.detector for f in new if (f.detector, f.router) not in before_judged} - set(absent))
    if unjudged:
        remarks.append(
            f"The baseline has no answer from {', '.join(unjudged)} at some routers where something is found now; "
            "that counts as new."
        )
    for detector in sorted(limits.keys() & baseline.limits.keys()):
        for name, value in limits[detector].items():
            before = baseline.limits[detector].get(name, value)
            if before != value and detector in {check.detector for check in checks}:
                remarks.append(f"The limit {detector}.{name} was {before:g} in the baseline and is {value:g} now.")
    gone = {check.router for check in baseline.checks} - {check.router for check in checks} - {None}
    if gone:
        remarks.append(f"{len(gone)} of the baseline's routers are not in this model.")
    return remarks
