"""How far a gate matrix stands off independent random entries, in standard errors of what such entries give."""

import math

from moeprobe.findings.weights import GateShape

_TRACY_WIDOM = (-1.2065, 1.268)
"""Mean and standard deviation of the largest eigenvalue's law (Tracy-Widom, real matrices)."""
_GAUSSIAN = 3.0


def distance(shape: GateShape) -> tuple[float, str]:
    """Return the largest of four standardised departures on the side to which training moves, and its name.

    Row norms vary more, the largest singular value and the cosines between rows are larger, and the entries have
    heavier tails than those of a random matrix; lighter ones (uniform, truncated) are random as well.
    """
    found = {
        "variation of the row norms": _variation(shape),
        "largest singular value": _singular(shape),
        "cosines between rows": _cosines(shape),
        "tails of the entries": (shape.kurtosis - _GAUSSIAN) / math.sqrt(24 / (shape.rows * shape.columns)),
    }
    name = max(found, key=lambda key: found[key])
    return found[name], name


def _variation(shape: GateShape) -> float:
    """Variance of the row norms over its expectation: chi-squared with one degree less than rows."""
    expected = max(shape.kurtosis - 1, 0.01) / (4 * shape.columns)
    return _normal(shape.norm_variation**2 / expected, shape.rows - 1)


def _singular(shape: GateShape) -> float:
    """Johnstone's scaling of the largest eigenvalue of a Wishart matrix."""
    rows, columns = math.sqrt(shape.rows), math.sqrt(shape.columns)
    edge = rows + columns
    scale = edge * math.cbrt(1 / rows + 1 / columns)
    mean, spread = _TRACY_WIDOM
    return ((shape.largest_singular**2 - 1) * edge**2 / scale - mean) / spread


def _cosines(shape: GateShape) -> float:
    """Mean square of the cosines over its expectation: one degree of freedom a pair, all but independent."""
    return _normal(shape.cosine_rms**2, shape.rows * (shape.rows - 1) / 2)


def _normal(ratio: float, freedom: float) -> float:
    """Chi-squared / freedom as a standard normal number (Wilson and Hilferty)."""
    width = 2 / (9 * freedom)
    return (math.cbrt(ratio) - (1 - width)) / math.sqrt(width)
