"""Layers that stand off the trend of the others, robustly.

Every layer is compared with a Theil-Sen line through all others (slopes and level are medians, so neither one
odd layer nor a naturally different hash layer bends it) and with the median of its nearest neighbours; the
smaller of the two offsets counts, so that a bend in the trend alone is no departure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEIGHBOURS = 4
_LEAST_FOR_SLOPE = 5
"""Fewer points than this give no slope worth extrapolating."""


@dataclass(frozen=True)
class Departure:
    """``offset`` of one value from the trend of the others, and ``sigma``, their robust scatter about it."""

    offset: float
    sigma: float


def departures(values: Sequence[float], sigma_floor: float) -> list[Departure]:
    """Return the departure of every value (in order of depth) from the trend of the others.

    ``sigma_floor`` keeps a handful of layers that happen to agree from making any other an outlier.
    """
    depth, level = np.arange(len(values), dtype=float), np.asarray(values, dtype=float)
    return [_departure(depth, level, i, sigma_floor) for i in range(len(values))]


def _departure(depth: np.ndarray, level: np.ndarray, i: int, sigma_floor: float) -> Departure:
    x, y = np.delete(depth, i), np.delete(level, i)
    slope = 0.0
    if len(x) >= _LEAST_FOR_SLOPE:
        first, second = np.triu_indices(len(x), 1)
        slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    residual = y - slope * x
    intercept = float(np.median(residual))
    sigma = 1.4826 * float(np.median(np.abs(residual - intercept)))
    off_line = float(level[i] - slope * depth[i] - intercept)
    nearest = np.argsort(np.abs(x - depth[i]), kind="stable")[:_NEIGHBOURS]
    off_neighbours = float(level[i] - np.median(y[nearest]))
    same_side = off_line * off_neighbours > 0
    offset = min(off_line, off_neighbours, key=abs) if same_side else 0.0
    return Departure(offset, max(sigma, sigma_floor))
