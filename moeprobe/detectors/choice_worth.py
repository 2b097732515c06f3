"""What the loss test says of a layer's choice: worth something, worthless, redundant, or not decided."""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from moeprobe.detectors.case import Limits
from moeprobe.findings.evidence import ChoiceTest, Experiments


class ChoiceLimits(Limits):
    """Bars of the loss test, the same for every detector that asks it."""

    min_documents: int = Field(8, ge=2, description="Documents that the interval must rest on")
    min_sources: int = Field(3, ge=1, description="Sources of text that must be among them")
    largest_effect: float = Field(0.1, gt=0, description="Upper end of rise over stir; sound layers show 0.07 to 0.5")
    least_stir: float = Field(0.05, ge=0, description="Nats; two inference engines differ by about 0.045 (KL 0.001)")


@dataclass(frozen=True)
class Worth:
    """``says`` is the reason where nothing was decided, else what was measured."""

    verdict: Literal["worth", "worthless", "redundant", "undecided"]
    says: str
    effect: float = math.nan
    """Upper end of the rise over the stir."""


def choice_worth(test: ChoiceTest, limits: ChoiceLimits) -> Worth:
    """Judge one layer's test."""
    if test.documents < limits.min_documents:
        return Worth("undecided", f"too few documents: {test.documents} of {limits.min_documents}")
    if test.sources < limits.min_sources:
        return Worth("undecided", f"too few sources: {test.sources} of {limits.min_sources}")
    low, high = test.rise.low, test.rise.high
    if low is None or high is None or not math.isfinite(high - low) or not math.isfinite(test.stir):
        return Worth("undecided", "not decided: the loss with random experts is not finite")
    rise = f"random experts change the loss by {test.rise.value:+.3g} nats per token ({low:+.3g} to {high:+.3g})"
    if low > 0:
        return Worth("worth", rise)
    if test.stir < limits.least_stir:
        return Worth("redundant", rise)
    if high > limits.largest_effect * test.stir:
        return Worth("undecided", f"not decided, too few tokens: {rise}")
    return Worth("worthless", rise, high / test.stir)


def why_not_tested(experiments: Experiments) -> str:
    """Why a layer has no loss test."""
    if experiments.loss is not None and not math.isfinite(experiments.loss):
        return "the loss of the probe is not finite"
    if experiments.choice:
        return "its experts module takes no choice that could be replaced"
    return "needs the loss test of the choice"
