"""Top-1 routing whose weight is divided by itself: the router then gets no gradient."""

from typing import TYPE_CHECKING

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Activations

if TYPE_CHECKING:
    from moeprobe.detectors.broken_contract import BrokenContractLimits

CONSTANT = "top-1 weights are constant"
_REMEDY = "Use the score itself as the weight (norm_topk_prob: false) if the router is to be trained"
_SO = "no gradient of the loss reaches the router"


def judge_top_one(case: "Case[BrokenContractLimits]", shown: Activations | None) -> None:
    """Say where one expert is chosen with a weight that no token changes: as measured, else as the config declares."""
    router = case.evidence.router
    # A hash table chooses its expert whatever the gate says, so a constant weight is a design.
    if router.kind == "hash" or router.top_k != 1 or router.score_columns == 1:
        return
    measured = router.renormalised is not None or router.selection_agreement is not None
    if shown is not None:
        _judge_measured(case, shown)
    elif router.renormalised or (not measured and router.declared.renormalised):
        said = "is divided by the sum of the chosen scores" if router.renormalised else "is normalised, says the config"
        case.find(
            "warning",
            f"one expert is chosen and its weight {said} (norm_topk_prob), so it is always the same: {_SO}",
            quantity="chosen experts with normalised weights",
            measured=1,
            cause=CONSTANT,
            remedy=_REMEDY,
        )


def _judge_measured(case: "Case[BrokenContractLimits]", shown: Activations) -> None:
    router, weights = case.evidence.router, shown.weights
    if router.renormalised is False or weights is None or weights.smallest_sum is None or not weights.largest_sum:
        return
    span = 1 - weights.smallest_sum / weights.largest_sum
    # Factors of the experts lie on top of the fitted rule, and no token changes them either.
    apart = router.expert_scale is not None and router.renormalised is True
    if weights.largest_sum < 0 or (span > case.limits.constant_weight and not apart):
        return
    by_itself = ", divided by itself," if router.renormalised else ""
    value = f"only that of {router.expert_scale}" if apart else f"always {number(weights.largest_sum)}"
    case.find(
        "warning",
        f"one expert is chosen and its weight{by_itself} is {value}: {_SO}"
        + ("" if apart else f" (range {number(span)}, the limit is {number(case.limits.constant_weight)})"),
        quantity="relative range of the weights",
        measured=None if apart else span,
        limit=None if apart else "constant_weight",
        cause=CONSTANT,
        remedy=_REMEDY,
    )
