"""How large the routed branch is in each layer, and how far that is off the trend of the other layers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moeprobe.detectors.trend import departures
from moeprobe.findings.evidence import RouterEvidence

if TYPE_CHECKING:
    from moeprobe.detectors.scale_mismatch import ScaleMismatchLimits


def branch_ratio(evidence: RouterEvidence) -> tuple[float | None, bool]:
    """Median size of the routed branch, and whether it is measured against a shared expert."""
    sizes = evidence.activations.magnitudes if evidence.activations else None
    if sizes is None:
        return None, False
    if sizes.routed_to_shared is not None:
        return sizes.routed_to_shared.p50, True
    return (sizes.routed_to_residual.p50 if sizes.routed_to_residual else None), False


def trend_offsets(routers: Sequence[RouterEvidence], limits: "ScaleMismatchLimits") -> list[tuple[float, float] | None]:
    """Offset of log r from the other layers' trend in units of sigma and of log, None where not comparable."""
    found: list[tuple[float, float] | None] = [None] * len(routers)
    for against_shared in (True, False):
        series = [
            (index, math.log(ratio))
            for index, (ratio, shared) in enumerate(map(branch_ratio, routers))
            if ratio and math.isfinite(ratio) and shared == against_shared and routers[index].router.verified
        ]
        if len(series) < limits.min_layers:
            continue
        away = departures([level for _, level in series], limits.sigma_floor)
        for place, ((index, _), departure) in enumerate(zip(series, away, strict=True)):
            # The residual stream grows with depth: its ends have no neighbours on both sides to tell.
            if against_shared or 0 < place < len(series) - 1:
                found[index] = (departure.offset / departure.sigma, departure.offset)
    return found
