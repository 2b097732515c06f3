"""Does the selection bias balance the load of the probe? A clause of bias-runaway."""

import math
from typing import Any

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Activations

UNBALANCES = "the selection bias makes the load less even"
OPPOSED = "the selection bias works against the balance"
UNRELATED = "the selection bias does not follow the experts' scores"

_REMEDY = "Check sign and order of the bias against the base checkpoint, and the texts of the probe"


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
