"""A norm over the chosen experts that the family's released configs have and this one lacks: part of scale-mismatch.

Code and config agree then, and the loss is often least within the healthy limits of the branch's size.
"""

from collections.abc import Sequence
from typing import Any

from moeprobe.detectors.case import Case
from moeprobe.detectors.scale_curve import CurveLimits, read_curve
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import RouterEvidence, ScaleCurve

LOST_NORM = "the config lacks the norm that the family's released configs have"
_REMEDY = "Set norm_topk_prob to true, unless this model was trained without"


def lost_norm(routers: Sequence[RouterEvidence]) -> str:
    """Say which norm this model lacks and who says that its family has it; empty where none is missing."""
    lacking = [one.router for one in routers if _lacks(one)]
    if not lacking:
        return ""
    return (
        "the routing weights are not divided by their sum (norm_topk_prob is false), while the family's released "
        f"configs renormalise ({lacking[0].declared.released_norm})"
    )


def _lacks(evidence: RouterEvidence) -> bool:
    router = evidence.router
    declared, reference = router.declared, router.reference
    # Where only the weights were read, some classes renormalise whatever the flag says.
    unmeasured = router.renormalised is None and reference is None and declared.score_function != "sqrtsoftplus"
    lost = declared.released_norm is not None and declared.renormalised is False
    return lost and 1 < router.top_k < router.score_columns and (router.renormalised is False or unmeasured)


def judge_lost_norm(model: Case[Any], routers: Sequence[RouterEvidence], curve: ScaleCurve | None) -> None:
    """Say that the norm is missing: a warning, or only a note where the loss is least at the present size."""
    lacking = lost_norm(routers)
    if not lacking:
        return
    limits: CurveLimits = model.limits
    fits = curve is not None and not read_curve(curve, limits).undecided
    fits = fits and curve is not None and 1 / limits.norm_multiplier <= curve.best <= limits.norm_multiplier
    if curve is None:
        loss = "; the loss test that could clear this was not run"
    elif fits:
        loss = f"; but the loss is least at {number(curve.best)} times the present size, as if it was trained so"
    else:
        loss = (
            f"; the loss is least at {number(curve.best)} times the present size of the routed branch (within "
            f"{number(1 / limits.norm_multiplier)} to {number(limits.norm_multiplier)} it would clear this)"
        )
    model.find(
        "info" if fits else "warning",
        lacking + loss,
        quantity="best multiplier",
        measured=None if curve is None else curve.best,
        limit=None if curve is None else "norm_multiplier",
        cause=LOST_NORM,
        remedy=_REMEDY,
    )
