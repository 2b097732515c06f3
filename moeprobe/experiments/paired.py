"""Paired: the difference of two losses on the same texts, with its error over documents."""

import math
from statistics import NormalDist

from torch import Tensor

from moeprobe.experiments.loss import DocumentLosses

_CONFIDENCE = 0.99


def paired(first: DocumentLosses, second: DocumentLosses) -> tuple[float, float]:
    """Mean of first - second in nats per token, and its standard error over documents."""
    read = first.tokens > 0
    return _ratio((first.nats - second.nats)[read], first.tokens[read].double())


def interval(value: float, error: float, documents: int) -> tuple[float, float]:
    """99 % interval of a mean over ``documents`` documents whose standard error is ``error`` (Student's t)."""
    half = student(documents - 1) * error if math.isfinite(error) else math.inf
    return value - half, value + half


def share(part: DocumentLosses, whole: DocumentLosses, baseline: DocumentLosses) -> tuple[float, float, float] | None:
    """(part - baseline) / (whole - baseline) with its 99 % interval; None where the whole may be zero or less."""
    read = baseline.tokens > 0
    documents = int(read.sum())
    low, _ = interval(*paired(whole, baseline), documents)
    if not low > 0:
        return None
    value, error = _ratio((part.nats - baseline.nats)[read], (whole.nats - baseline.nats)[read])
    return value, *interval(value, error, documents)


def student(freedom: int) -> float:
    """Half width of the 99 % interval in standard errors.

    Cornish and Fisher's expansion of Student's t; right to 1 % from 7 degrees of freedom on (3.50 instead of
    3.4995), and below them no test here is decided.
    """
    if freedom < 1:
        return math.inf
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _ratio(above: Tensor, below: Tensor) -> tuple[float, float]:
    """Ratio of two sums over documents and its standard error (linearised; documents are the clusters)."""
    value, count = float(above.sum() / below.sum()), above.numel()
    if count < 2:
        return value, math.inf
    residual = above - value * below
    return value, float((residual.square().sum() * count / (count - 1)).sqrt() / below.sum().abs())
