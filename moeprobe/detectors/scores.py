"""Score functions: what they give for a logit, and where they fall to zero."""

import math

from moeprobe.detectors.precision import plain_name
from moeprobe.findings.evidence import RouterEvidence

SQRT_SOFTPLUS_EDGES = {"float64": -745.13, "float32": -102.8735, "bfloat16": -93.0, "float16": -17.34375}
"""sqrt(softplus(x)) is exactly zero for x at or below this, by dtype (measured, on the vector path)."""

SIGMOID_ONE = 16.6355
"""sigmoid(x) is exactly one in float32 from here on: all such experts tie."""


def sqrt_softplus(logit: float) -> float:
    """sqrt(log(1 + exp(logit))), stable at both ends."""
    return math.sqrt(max(logit, 0.0) + math.log1p(math.exp(-abs(logit))))


def score_function(evidence: RouterEvidence) -> str | None:
    """Return the score function that the probe showed, or before any forward pass the declared one.

    After a forward pass None means that no known function explains the weights; the declaration is then no
    longer believed.
    """
    router = evidence.router
    if router.score_function is None and evidence.activations is None:
        return router.declared.score_function
    return router.score_function


def zero_edge(function: str | None, dtype: str | None) -> float | None:
    """Return the logit below which the score is zero and its gradient NaN; None where there is no such logit.

    Only the square root has one: its derivative at zero is infinite. Sigmoid and softmax also reach zero, but
    their derivative is zero there.
    """
    return SQRT_SOFTPLUS_EDGES.get(plain_name(dtype) or "") if function == "sqrtsoftplus" else None
