"""Exact tails of the binomial distribution and the Clopper-Pearson bounds that they give.

Both are the regularised incomplete beta function I_x(a, b), here by its continued fraction (NIST DLMF 8.17.22,
evaluated by Lentz's method), which holds for real numbers of trials and hits too. That is what a sample of
dependent tokens needs: the Clopper-Pearson interval of an effective sample (Korn and Graubard, Survey Methodology
24, 1998) takes trials / DEFF and hits / DEFF.
"""

import math
from collections.abc import Callable

_TINY = 1e-300
_STEPS = 100_000


def at_most(hits: float, trials: float, chance: float) -> float:
    """P(X <= hits) for X binomial with ``trials`` of ``chance``."""
    return 1.0 if hits >= trials else incomplete_beta(trials - hits, hits + 1, 1 - chance, chance)


def at_least(hits: float, trials: float, chance: float) -> float:
    """P(X >= hits) for X binomial with ``trials`` of ``chance``."""
    return 1.0 if hits <= 0 else incomplete_beta(hits, trials - hits + 1, chance, 1 - chance)


def upper_bound(hits: float, trials: float, error: float) -> float:
    """Largest chance that these hits do not refute at one-sided ``error`` (Clopper and Pearson, 1934)."""
    if hits >= trials:
        return 1.0
    return _crossing(lambda chance: at_most(hits, trials, chance) > error, hits / trials, 1.0)


def lower_bound(hits: float, trials: float, error: float) -> float:
    """Smallest chance that these hits do not refute at one-sided ``error``."""
    if hits <= 0:
        return 0.0
    return _crossing(lambda chance: at_least(hits, trials, chance) < error, 0.0, hits / trials)


def _crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``below`` turns from true to false, to the last digit."""
    while True:
        middle = (low + high) / 2
        if not low < middle < high or high - low < 1e-15 * high:
            return middle
        low, high = (middle, high) if below(middle) else (low, middle)


def incomplete_beta(a: float, b: float, x: float, complement: float) -> float:
    """I_x(a, b) for a, b > 0 and x in [0, 1]; ``complement`` is 1 - x, given apart so that no digit is lost."""
    if x <= 0 or complement <= 0:
        return 0.0 if x <= 0 else 1.0
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    # The fraction converges fast on one side of the mean; the other side is its mirror image.
    if x < (a + 1) / (a + b + 2):
        return min(1.0, math.exp(front) * _fraction(a, b, x) / a)
    return max(0.0, 1.0 - math.exp(front) * _fraction(b, a, complement) / b)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b), about sqrt(max(a, b)) steps."""
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _off_zero(1 + term * d)
            c = _off_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 4e-16:
            break
    return value


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
