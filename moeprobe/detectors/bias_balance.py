"""Does the selection bias balance? Two clauses of bias-runaway that need the probe."""

import math
from typing import Any

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Activations

UNBALANCES = "the selection bias makes the load less even"
OPPOSED = "the selection bias works against the balance"
UNRELATED = "the selection bias does not follow the experts' scores"

_REMEDY = "Check sign and order of the bias against the base checkpoint, and the texts of the probe"
_MIN_EXPERTS = 8
"""Below this the standard error of a correlation, 1/sqrt(E - 3), says nothing."""


def judge_imbalance(case: Case[Any], shown: Activations) -> None:
    """Compare the load with and without the bias."""
    limits, load = case.limits, shown.load
    biased, unbiased = load.max_vio, load.unbiased_max_vio
    if unbiased is None or biased.low is None or unbiased.high is None:
        case.note("the imbalance without the bias has no interval (too few documents)")
    elif len(load.source_tokens) < limits.min_sources:
        case.note(f"the imbalance is not judged on {len(load.source_tokens)} of {limits.min_sources} sources")
    elif biased.value > limits.imbalance_ratio * unbiased.value and biased.low > unbiased.high:
        case.find(
            "warning",
            f"the load is less even with the bias (MaxVio {number(biased.value)}) than without it "
            f"({number(unbiased.value)}; the limit is {number(limits.imbalance_ratio)} times)",
            quantity="MaxVio with over without the bias",
            measured=biased.value / unbiased.value if unbiased.value > 0 else math.inf,
            limit="imbalance_ratio",
            cause=UNBALANCES,
            remedy=_REMEDY,
        )


def judge_law(case: Case[Any], shown: Activations) -> None:
    """Compare the bias with the balance law (docs/science.md B2): a flipped one opposes it."""
    law = shown.balance_law
    bias = case.evidence.router.selection_bias
    if law is None or law.correlation is None or bias is None or len(bias.values) < _MIN_EXPERTS:
        return
    if len(shown.load.source_tokens) < case.limits.min_sources or shown.tokens < case.limits.min_tokens:
        return
    reach = case.limits.law_sigmas / math.sqrt(len(bias.values) - 3)
    z = math.atanh(max(-0.999999, min(0.999999, law.correlation)))
    if z > reach:
        return
    opposed = z < -reach
    case.find(
        "warning" if opposed else "info",
        f"the selection bias correlates by {number(law.correlation)} with the one that would balance these texts "
        f"({'that is its opposite' if opposed else 'no more than by chance'})",
        quantity="standard errors of the correlation with the balance law",
        measured=z * math.sqrt(len(bias.values) - 3),
        limit="law_sigmas",
        cause=OPPOSED if opposed else UNRELATED,
        remedy=_REMEDY,
    )
