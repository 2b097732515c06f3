"""How routing weights break what the config promises, so that each way is reported once.

Weights that fade (underflow, an epsilon in the norm) belong to sqrt-nan; a wrong factor and a lost norm
belong to scale-mismatch.
"""

from typing import Literal

from moeprobe.detectors.precision import is_16bit, plain_name
from moeprobe.findings.evidence import RouterEvidence, Weights
from moeprobe.findings.router import Router

Breach = Literal["faded", "factor", "unnormalised", "normalised", "unexplained"]

_TINY_SCORE = 1e-3
"""Chosen scores fade only when they are tiny: sqrt(softplus) is 2e-4 where float16 ends."""


def weight_tolerance(evidence: RouterEvidence, float32: float, sixteen_bit: float) -> float:
    """Return the relative deviation that rounding explains in the dtype of the weights."""
    arithmetic = evidence.router.arithmetic
    dtype = plain_name(arithmetic.weights) if arithmetic else None
    return sixteen_bit if dtype is None or is_16bit(dtype) else float32


def breach(evidence: RouterEvidence, weights: Weights, tolerance: float) -> Breach | None:
    """Return how the weights break the promise, None where they keep it or nothing is promised."""
    router = evidence.router
    normalised = False
    # With one expert, or all of them, a norm over the chosen ones cannot be told from none.
    chooses = 1 < router.top_k < router.score_columns
    promised = promises_norm(router)
    if chooses and promised is not None and router.renormalised is not None:
        if promised and not router.renormalised:
            return "unnormalised"
        normalised = router.renormalised and not promised
    if _factor_differs(evidence, tolerance):
        return "factor"
    return _sum_breach(evidence, weights, tolerance) or ("normalised" if normalised else None)


def promises_norm(router: Router) -> bool | None:
    """Return whether the weights are to be divided by their sum: the config's word, else what the class does."""
    if router.declared.renormalised is not None or router.reference is None:
        return router.declared.renormalised
    return router.reference.renormalised


def _sum_breach(evidence: RouterEvidence, weights: Weights, tolerance: float) -> Breach | None:
    low, high = weights.promise_smallest, weights.promise_largest
    if low is None or high is None or (abs(low - 1) <= tolerance and abs(high - 1) <= tolerance):
        return None
    # A block that multiplies the experts' output keeps its factor out of the weights.
    beside = evidence.router.output_factor or 1.0
    if abs(low * beside - 1) <= tolerance and abs(high * beside - 1) <= tolerance:
        return None
    if low > 0 and high / low - 1 <= tolerance:
        return "factor"
    score = weights.smallest_chosen_score
    if high <= 1 + tolerance and (score is None or score < _TINY_SCORE):
        return "faded"
    return "unexplained"


def measured_factor(evidence: RouterEvidence) -> float | None:
    """Return the factor on the routed branch that was measured, inside the weights and behind the experts."""
    router = evidence.router
    if router.scaling_factor is None or router.output_factor is None:
        return None
    return router.scaling_factor * router.output_factor


def _factor_differs(evidence: RouterEvidence, tolerance: float) -> bool:
    router = evidence.router
    measured, promised = measured_factor(evidence), router.declared.scaling_factor
    if promised is None and router.reference is not None:
        # What the block does to the experts' output stands in no router class.
        measured, promised = router.scaling_factor, router.reference.scaling_factor
    if measured is None or promised is None or promised == 0:
        return False
    # The fit itself is only as good as its error.
    return abs(measured / promised - 1) > max(tolerance, 2 * (evidence.router.fit_error or 0.0), 0.01)
