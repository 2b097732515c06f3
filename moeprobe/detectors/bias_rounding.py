"""Rounding and offset of the selection bias: a clause of bias-runaway that needs the weights alone."""

import math
from typing import Any

import numpy as np

from moeprobe.detectors.bias_certificates import left_out_groups_win
from moeprobe.detectors.case import Case
from moeprobe.detectors.precision import is_16bit, step
from moeprobe.detectors.wording import number
from moeprobe.findings.router import Bias

STORED_ROUNDED = "the selection bias was rounded to 16 bits in the file"
LOADED_ROUNDED = "the selection bias was rounded to 16 bits when it was loaded"
ROUNDED_ON_LOAD = "loading rounded the selection bias, harmlessly"
OFFSET = "the selection bias has a common offset"
OFFSET_16BIT = "the selection bias has a common offset in 16 bits"
RESTORE = "Restore the bias from the base checkpoint, in float32"


def judge_rounding(case: Case[Any], bias: Bias) -> None:
    """Find steps of a 16-bit dtype, or a common offset, that are large beside the differences of the biases."""
    low, middle, high = (float(q) for q in np.quantile(bias.values, [0.25, 0.5, 0.75]))
    held = [dtype for dtype in (bias.stored_dtype, bias.dtype) if dtype and is_16bit(dtype)]
    # The quartiles and not the largest value: one runaway expert does not coarsen the others' biases.
    size = max(abs(low), abs(high))
    coarsest = max((step(dtype, size) for dtype in held), default=0.0)
    if size > 0 and coarsest > case.limits.rounding_share * (high - low):
        in_file = is_16bit(bias.stored_dtype)
        case.find(
            "error",
            f"the selection bias is held in {held[0]} with a step of {number(coarsest)} at its size, more than "
            f"{number(case.limits.rounding_share)} of the interquartile range {number(high - low)}",
            quantity="rounding step over interquartile range",
            measured=coarsest / (high - low) if high > low else math.inf,
            limit="rounding_share",
            cause=STORED_ROUNDED if in_file else LOADED_ROUNDED,
            remedy=f"{RESTORE}; upcasting the rounded values restores nothing"
            if in_file
            else "Keep the bias in float32 when the model is loaded in 16 bits",
        )
        return
    offset = abs(middle) / (high - low) if high > low else 0.0
    if offset > case.limits.offset_ratio and not left_out_groups_win(case.evidence):
        arithmetic = case.evidence.router.arithmetic
        risky = bool(held) or is_16bit(arithmetic.selection if arithmetic else None)
        case.find(
            "warning" if risky else "info",
            f"the selection bias has a common offset of {number(middle)} with an interquartile range of "
            f"{number(high - low)}; "
            + (
                "held or added in 16 bits this loses differences" if risky else "harmless, since only differences count"
            ),
            quantity="offset over interquartile range",
            measured=offset,
            limit="offset_ratio",
            cause=OFFSET_16BIT if risky else OFFSET,
            remedy="Keep the bias and the sum with the scores in float32, or subtract its mean"
            if risky
            else "Nothing; keep it in float32",
        )
    elif is_16bit(bias.dtype) and bias.stored_dtype and not is_16bit(bias.stored_dtype):
        case.find(
            "info",
            f"the checkpoint holds the selection bias in {bias.stored_dtype}, and loading rounded it to {bias.dtype}, "
            f"in steps of {number(coarsest)} at an interquartile range of {number(high - low)}",
            quantity="rounding step over interquartile range",
            measured=coarsest / (high - low) if high > low else math.inf,
            cause=ROUNDED_ON_LOAD,
            remedy="Nothing while the steps are this small; keep the bias in float32 where the family allows it",
        )
