"""Factor, norm and sum of the routing weights against what config and class promise: a clause of scale-mismatch."""

from typing import Any

from moeprobe.detectors.case import Case
from moeprobe.detectors.promise import breach, measured_factor, weight_tolerance
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Weights

FACTOR = "the scaling factor is not what the config promises"
UNNORMALISED = "the weights are not normalised as the config promises"
NORMALISED = "the weights are normalised although the config says otherwise"
UNEXPLAINED = "the weights do not sum to what the config promises"

CONFIG = "Set norm_topk_prob and routed_scaling_factor to the family's values and check that they are applied once"


def judge_rule(case: Case[Any], weights: Weights) -> None:
    """Find factor, norm or sum that the weights of a router do not have as promised."""
    limits, router = case.limits, case.evidence.router
    tolerance = weight_tolerance(case.evidence, limits.weight_sum_float32, limits.weight_sum_16bit)
    bar = "weight_sum_float32" if tolerance == limits.weight_sum_float32 else "weight_sum_16bit"
    low, high = weights.promise_smallest or 0.0, weights.promise_largest or 0.0
    kind = breach(case.evidence, weights, tolerance)
    if kind == "factor":
        factor, promised = measured_factor(case.evidence), router.declared.scaling_factor
        who = "the config"
        if promised is None and router.reference is not None and router.scaling_factor is not None:
            factor, promised = router.scaling_factor, router.reference.scaling_factor
            who = f"transformers' own {router.reference.name}"
        if factor is None or not promised:
            factor, promised, who = low, 1.0, "the config"
        case.find(
            "error",
            f"the routed branch is multiplied by {number(factor)}, {who} promises {number(promised)}",
            quantity="deviation of the factor",
            measured=abs(factor / promised - 1),
            limit=bar,
            cause=FACTOR,
            remedy=CONFIG,
        )
    elif kind == "unexplained":
        case.find(
            "error",
            f"the routing weights sum to {number(low)} to {number(high)} times what the config promises",
            quantity="deviation of the weight sum",
            measured=max(abs(low - 1), abs(high - 1)),
            limit=bar,
            cause=UNEXPLAINED,
            remedy=CONFIG,
        )
    elif kind in ("normalised", "unnormalised"):
        reference = router.reference
        always = reference.renormalised is True if reference else router.score_function == "sqrtsoftplus"
        are, promise = ("are", "not to be") if kind == "normalised" else ("are not", "to be")
        who = "the config promises them"
        if router.declared.renormalised is None and reference is not None:
            who = f"those of transformers' own {reference.name} are"
            promise = "not" if kind == "normalised" else "always"
        so = ", as transformers' own class does whatever the config says" if always and kind == "normalised" else ""
        case.find(
            "info" if kind == "normalised" and always else "error",
            f"the routing weights {are} divided by their sum, {who} {promise}{so}",
            quantity="median sum of the weights",
            measured=weights.sum.p50,
            cause=UNNORMALISED if kind == "unnormalised" else NORMALISED,
            remedy=CONFIG,
        )
