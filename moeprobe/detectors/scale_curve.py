"""Judge the curves of the loss in a multiplier on the routed branch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from moeprobe.detectors.case import Limits
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import ScaleCurve

_PREFERRED = (1, 2, 3, 5, 10)
"""A curve is flat at its bottom and sound layers have theirs at 0.8 to 1.2: the factor is said roughly."""


class CurveLimits(Limits):
    """The limits that a curve is judged by."""

    multiplier_low: float = Field(0.63, gt=0, le=1, description="Least healthy best multiplier; healthy is 1")
    multiplier_high: float = Field(1.6, ge=1, description="Largest healthy best multiplier; healthy is 1")
    norm_multiplier: float = Field(
        1.19, gt=1, description="Best multiplier that clears a norm lost from the config: sound 1.13, lost 1.26 to 1.6"
    )
    gain_errors: float = Field(3, gt=0, description="Paired gain of the best multiplier in standard errors")
    gain_share: float = Field(0.01, gt=0, description="Gain of the best multiplier as a share of the loss")
    layer_gain_share: float = Field(0.002, gt=0, description="The same for one layer; sound ones gain up to 0.0007")
    min_sources: int = Field(3, ge=1, description="Sources of text that must gain")
    min_documents: int = Field(8, ge=2, description="Documents that the standard error must rest on")


@dataclass(frozen=True)
class Reading:
    """What a curve says: ``wrong`` (the best multiplier is far from 1), fine, or undecided with a reason."""

    wrong: bool
    undecided: str = ""

    @property
    def fine(self) -> bool:
        """Whether the curve decided that the size is right."""
        return not self.wrong and not self.undecided


def read_curve(curve: ScaleCurve, limits: CurveLimits) -> Reading:
    """Return what the curve says; an error needs an interior minimum, a paired gain and agreeing sources."""
    if curve.documents < limits.min_documents:
        return Reading(False, f"too few documents: {curve.documents} of {limits.min_documents}")
    if curve.sources < limits.min_sources:
        return Reading(False, f"too few sources: {curve.sources} of {limits.min_sources}")
    if not curve.interior:
        return Reading(False, f"not decided: the least loss is at the edge of the grid (m = {number(curve.best)})")
    at_one = next((point.loss for point in curve.points if math.isclose(point.multiplier, 1.0)), None)
    if at_one is None or not math.isfinite(at_one) or not math.isfinite(curve.gain):
        return Reading(False, "not decided: the loss at multiplier 1 is not known")
    outside = not limits.multiplier_low <= curve.best <= limits.multiplier_high
    least = (limits.gain_share if curve.router is None else limits.layer_gain_share) * at_one
    significant = curve.gain > limits.gain_errors * curve.standard_error and curve.gain > least
    return Reading(outside and significant and curve.sources_gaining >= limits.min_sources)


def culprit(curves: Sequence[ScaleCurve], limits: CurveLimits) -> ScaleCurve | None:
    """Return the wrong curve that explains the others, None where no size is wrong or that is not decided.

    With one layer of a wrong size the whole model gains as well, and so do layers that make up for it; with a
    wrong factor in all layers each of them gains alone. The right place to mend gains most.
    """
    odd = [curve for curve in curves if not read_curve(curve, limits).fine and math.isfinite(curve.gain)]
    # Of equal gains the single layer's says more.
    first = max(odd, key=lambda curve: (curve.gain, curve.router is not None), default=None)
    return first if first is not None and read_curve(first, limits).wrong else None


def points_to(curve: ScaleCurve) -> str:
    """Say how wrong the size is."""
    away = f"{_about(1 / curve.best)} times too large" if curve.best < 1 else f"{_about(curve.best)} times too small"
    return f"about {away}: multiply it by {correction(curve)}"


def correction(curve: ScaleCurve) -> str:
    """Say the factor that would mend it."""
    return f"about 1/{_about(1 / curve.best)}" if curve.best < 1 else f"about {_about(curve.best)}"


def _about(factor: float) -> str:
    """Say the factor by the nearest of 1, 2, 3, 5, 10, 20, 30, 50, ..."""
    power = 10 ** math.floor(math.log10(factor))
    return number(power * min(_PREFERRED, key=lambda step: abs(math.log(factor / (power * step)))))
