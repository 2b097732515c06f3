"""Intervals over documents: tokens of one document are not independent, documents are (docs/science.md E4)."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeprobe.findings.numbers import Interval

MINIMUM_DOCUMENTS = 30
_DRAWS = 400
ENDS = (0.005, 0.995)
"""Of a 99 % interval."""


def max_vio(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """MaxVio = max / mean - 1 over the last axis (2408.15664, eq. 4); 0 where nothing was counted."""
    mean = counts.mean(axis=-1)
    return np.where(mean > 0, counts.max(axis=-1) / np.where(mean > 0, mean, 1) - 1, 0.0)


def max_vio_interval(clusters: Tensor, used: int) -> Interval:
    """MaxVio with its 99 % interval from a bootstrap over document clusters.

    Args:
        clusters: [clusters, experts] int64 assignments.
        used: documents seen; below 30 no interval is given.

    """
    return bootstrap(clusters, used, max_vio)


def bootstrap(clusters: Tensor, used: int, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Interval:
    """A statistic of summed columns with its 99 % interval from a bootstrap over document clusters.

    Args:
        clusters: [clusters, columns] of what the statistic adds up, none negative; empty clusters are left out.
        used: documents seen; below 30 no interval is given.
        statistic: [..., columns] sums to [...] values.

    """
    data = clusters[clusters.sum(dim=-1) > 0].double().numpy()
    value = float(statistic(data.sum(axis=0)))
    if used < MINIMUM_DOCUMENTS or data.shape[0] < 2:
        return Interval(value=value)
    low, high = np.quantile(statistic(resamples(data.shape[0]) @ data), ENDS)
    return Interval(value=value, low=float(low), high=float(high))


def resamples(clusters: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each of ``clusters`` clusters is drawn in each bootstrap sample, [samples, clusters]."""
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=_DRAWS)
    return drawn.astype(np.float64)


def uniform_floor(tokens: int, experts: int, k: int, draws: int = 64) -> float:
    """Mean MaxVio of a perfectly uniform router that picks k of ``experts`` for each of ``tokens`` tokens.

    The counts are drawn from the multinomial of tokens * k assignments with the variance of sampling without
    replacement within a token (factor 1 - k/experts).
    """
    if tokens == 0 or experts == 0:
        return 0.0
    fair = tokens * k / experts
    generator = torch.Generator().manual_seed(0)
    if fair < 20:
        picks = (
            torch.rand(draws, min(tokens, 4096), experts, generator=generator).topk(k, dim=-1).indices
            if (draws * min(tokens, 4096) * experts <= 2**24)
            else None
        )
        if picks is not None and tokens <= 4096:
            counted = torch.stack([torch.bincount(draw.flatten(), minlength=experts) for draw in picks])
            return float((counted.amax(dim=-1) / fair - 1).mean())
    noise = torch.randn(draws, experts, generator=generator)
    spread = (fair * (1 - k / experts)) ** 0.5
    return float((noise.amax(dim=-1) * spread / fair).mean())
