"""Which fault made a router flat: told from the size of the gate, the size of its input and the bias."""

import math

from moeprobe.detectors.scores import SIGMOID_ONE, SQRT_SOFTPLUS_EDGES
from moeprobe.findings.evidence import Activations, RouterEvidence

TINY_WEIGHTS = "gate weights are (nearly) zero"
EQUAL_ROWS = "gate rows are equal"
LOW_RANK = "gate rows differ in few directions"
COLLAPSED_INPUT = "the router input has collapsed"
LOST_TO_ROUNDING = "logits lost to rounding"
SATURATED = "the score function is saturated"
NOT_BY_TOKEN = "routing does not depend on the token"
BIAS_OUTWEIGHS = "the selection bias outweighs the scores"
UNKNOWN = "logits do not differ between experts"

_EQUAL_SHARE = 0.1
"""Spread of the logits over that of unrelated rows of the same norm; far below means equal rows."""

_EXP_ZERO = 103.98
"""exp(-x) is zero in float32 from here on."""

_RESTORE = "Compare the gate's tensor with the base checkpoint and restore it"
REMEDIES = {
    TINY_WEIGHTS: _RESTORE,
    EQUAL_ROWS: _RESTORE,
    LOW_RANK: _RESTORE,
    UNKNOWN: _RESTORE,
    NOT_BY_TOKEN: f"{_RESTORE}; a low-rank or 4-bit gate is a common reason",
    COLLAPSED_INPUT: "Check the norm before the router and the layers below, which no longer tell tokens apart",
    LOST_TO_ROUNDING: "Run the gate in float32 and remove the common offset of the logits",
    SATURATED: "Check the scale of the gate weights: logits this large round to the same score",
    BIAS_OUTWEIGHS: "Restore the selection bias; see bias-runaway",
}

_MOST_TOKENS = 0.5


def of_spread(evidence: RouterEvidence, shown: Activations, spread: float) -> str:
    """Why the logits do not spread.

    Unrelated rows of norm n on an input of RMS r spread by about n * r; what is missing is the cause.
    """
    norms = evidence.weights.row_norms if evidence.weights else []
    if not norms or shown.magnitudes is None:
        return UNKNOWN
    size = math.sqrt(sum(norm * norm for norm in norms) / len(norms))
    rms = shown.magnitudes.input_rms
    if size * rms > 0 and spread < _EQUAL_SHARE * size * rms:
        return EQUAL_ROWS
    return TINY_WEIGHTS if size <= rms else COLLAPSED_INPUT


def of_ties(evidence: RouterEvidence, shown: Activations, flat: float) -> str:
    """Why selection scores tie in float32. Logits that spread less than ``flat`` are flat themselves."""
    logits = shown.logits
    if logits is None:
        return LOST_TO_ROUNDING
    if logits.std.p50 is not None and logits.std.p50 < flat:
        return of_spread(evidence, shown, logits.std.p50)
    low = logits.smallest.value if logits.smallest else 0.0
    high = logits.largest.value if logits.largest else 0.0
    saturated = {
        "sigmoid": high >= SIGMOID_ONE or low <= -_EXP_ZERO,
        "softmax": high - low >= _EXP_ZERO,
        "sqrtsoftplus": low <= SQRT_SOFTPLUS_EDGES["float32"],
    }
    return SATURATED if saturated.get(evidence.router.score_function or "") else LOST_TO_ROUNDING


def of_constancy(evidence: RouterEvidence, shown: Activations, flat: float, collapsed: float) -> str:
    """Why nearly every token gets the same experts; where the logits hardly differ, that is why."""
    spread = shown.magnitudes.input_token_spread if shown.magnitudes else None
    if spread is not None and spread < collapsed:
        return COLLAPSED_INPUT
    logit_spread = shown.logits.std.p50 if shown.logits else None
    bias_only = shown.selection.bias_only if shown.selection else None
    if logit_spread is not None and logit_spread < flat:
        return of_spread(evidence, shown, logit_spread)
    return BIAS_OUTWEIGHS if bias_only is not None and bias_only >= _MOST_TOKENS else NOT_BY_TOKEN
