"""Sizes that stand far off those of their siblings: experts of a layer, rows of a gate, the same tensor over depth."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from moeprobe.detectors.case import Limits
from moeprobe.detectors.trend import departures

_LEAST_SIBLINGS = 4


class SizeLimits(Limits):
    """The limits that sizes of tensors are compared by."""

    row_factor: float = Field(10, gt=1, description="Gate row norm off the median row; trained gates stay within 1.3")
    expert_factor: float = Field(4, gt=1, description="Expert matrix off the median expert; trained ones within 1.2")
    depth_factor: float = Field(5, gt=1, description="Size off its trend over depth; squared for the ends of it")
    size_sigmas: float = Field(6, gt=0, description="Robust sigmas of the log size, needed beside each factor")
    size_floor: float = Field(0.1, gt=0, description="Least scatter of log size; upcycled siblings have none at all")
    size_error: float = Field(20, gt=1, description="Factor from which a size off its siblings is an error")
    min_depth: int = Field(5, ge=3, description="Layers with a tensor before its size over depth is judged")


def off_siblings(sizes: Sequence[float | None], factor: float, limits: SizeLimits) -> dict[int, float]:
    """Place -> size over the median, for sizes that are off it by the factor and by the robust sigmas.

    Zeros and None are no sizes and are left out; below four sizes there is no majority to compare with.
    """
    known = {place: math.log(size) for place, size in enumerate(sizes) if size}
    if len(known) < _LEAST_SIBLINGS:
        return {}
    level = np.array(list(known.values()))
    middle = float(np.median(level))
    sigma = max(1.4826 * float(np.median(np.abs(level - middle))), limits.size_floor)
    bar = max(math.log(factor), limits.size_sigmas * sigma)
    return {place: math.exp(size - middle) for place, size in known.items() if abs(size - middle) > bar}


def off_trend(sizes: Mapping[int, float | None], limits: SizeLimits) -> dict[int, float]:
    """Router -> size over the trend of the same tensor in the other layers, where that is far off.

    Args:
        sizes: number of the router, in order of depth -> size of the tensor there.
        limits: how far is far; the ends of a series have no neighbours on both sides and get the factor twice.

    """
    known = {place: math.log(size) for place, size in sizes.items() if size}
    if len(known) < limits.min_depth:
        return {}
    away = departures(list(known.values()), limits.size_floor)
    found = {}
    for number, (place, departure) in enumerate(zip(known, away, strict=True)):
        end = number in (0, len(known) - 1)
        bar = max((1 + end) * math.log(limits.depth_factor), limits.size_sigmas * departure.sigma)
        if abs(departure.offset) > bar:
            found[place] = math.exp(departure.offset)
    return found


def furthest(ratio: float) -> float:
    """How many times larger or smaller a ratio says that something is."""
    return max(ratio, 1 / ratio)
