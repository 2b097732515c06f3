"""Tensors of a router, of its experts and beside them that hold NaN or infinity, whatever reaches them."""

import math
from typing import TYPE_CHECKING

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import listed
from moeprobe.findings.evidence import RouterEvidence

if TYPE_CHECKING:
    from moeprobe.detectors.sqrt_nan import SqrtNanLimits

NONFINITE_GATE = "gate weights are not finite"
NONFINITE_BIAS = "the logit bias is not finite"
NONFINITE_GAIN = "the norm gain before the router is not finite"
NONFINITE_EXPERTS = "expert weights are not finite"
NONFINITE_SHARED = "shared expert weights are not finite"

BEFORE_LOGITS = (NONFINITE_GATE, NONFINITE_BIAS, NONFINITE_GAIN)
BEHIND_CHOICE = (NONFINITE_EXPERTS, NONFINITE_SHARED)

_RESTORE = "Compare this tensor with the base checkpoint and restore it"


def judge_nonfinite_tensors(case: "Case[SqrtNanLimits]") -> bool:
    """Report the tensors that are not finite; whether one of them makes the logits so for any token."""
    evidence = case.evidence
    if evidence.weights is None and evidence.router.logit_bias is None:
        return False
    case.weigh()
    for what, experts, cause in _nonfinite(evidence):
        case.find(
            "error",
            f"{what} hold NaN or infinity",
            quantity="experts with tensors that are not finite" if experts else "tensors that are not finite",
            measured=len(experts) or 1,
            cause=cause,
            remedy=_RESTORE,
            experts=experts,
        )
    return any(found.cause in BEFORE_LOGITS for found in case.findings)


def _nonfinite(evidence: RouterEvidence) -> list[tuple[str, list[int], str]]:
    """What is not finite, of which experts, and the cause."""
    weights, experts, bias = evidence.weights, evidence.experts, evidence.router.logit_bias
    rows = weights.nonfinite_rows if weights else []
    biases = [e for e, value in enumerate(bias.values) if not math.isfinite(value)] if bias else []
    found = []
    if rows:
        found.append((f"the gate weights of {listed(rows, 'expert')}", rows, NONFINITE_GATE))
    if biases:
        found.append((f"the logit biases of {listed(biases, 'expert')}", biases, NONFINITE_BIAS))
    if weights and weights.norm and weights.norm.rms is None:
        found.append((f"entries of {weights.norm.name}.weight", [], NONFINITE_GAIN))
    if experts is None:
        return found
    for name, sizes in experts.rms.items():
        if bad := [expert for expert, size in enumerate(sizes) if size is None]:
            found.append((f"entries of {name} of {listed(bad, 'expert')}", bad, NONFINITE_EXPERTS))
    found += [(f"entries of {name}", [], NONFINITE_SHARED) for name, size in experts.shared.items() if size is None]
    return found
