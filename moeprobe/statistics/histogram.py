"""Histograms with fixed edges: they merge exactly, unlike sketches that adapt (docs/science.md E6)."""

import torch
from torch import Tensor

from moeprobe.findings.numbers import Quantiles
from moeprobe.statistics.rows import finite, taken
from moeprobe.statistics.statistic import counts


class Scale:
    """Fixed logarithmic edges from ``low`` to ``high``, ``per_decade`` bins a decade.

    Bin 0 holds everything below ``low`` (zero included), the last bin everything from ``high`` on.
    """

    def __init__(self, low: float, high: float, per_decade: int = 40) -> None:
        decades = torch.tensor([low, high], dtype=torch.float64).log10()
        bins = round(float(decades[1] - decades[0]) * per_decade)
        self.edges = torch.logspace(float(decades[0]), float(decades[1]), bins + 1, dtype=torch.float64)

    def zeros(self) -> Tensor:
        """An empty histogram."""
        return counts(self.edges.numel() + 1)

    def count(self, values: Tensor) -> Tensor:
        """Histogram of the finite values."""
        numbers = taken(values, finite(values)).double()
        edges = self.edges.to(values.device)
        bins = torch.bucketize(numbers, edges, right=True)
        return torch.bincount(bins, minlength=edges.numel() + 1).cpu()

    def quantile(self, histogram: Tensor, q: float) -> float | None:
        """Quantile by geometric interpolation within its bin; None for an empty histogram."""
        total = int(histogram.sum())
        if total == 0:
            return None
        cumulative = histogram.cumsum(0).double()
        target = q * total
        index = int(torch.searchsorted(cumulative, torch.tensor(target, dtype=torch.float64)))
        index = min(index, histogram.numel() - 1)
        if index == 0:
            return 0.0
        if index == histogram.numel() - 1:
            return float(self.edges[-1])
        before = float(cumulative[index - 1])
        inside = float(histogram[index])
        fraction = (target - before) / inside if inside else 0.0
        low, high = float(self.edges[index - 1]), float(self.edges[index])
        return float(low * (high / low) ** fraction)

    def quantiles(self, histogram: Tensor) -> Quantiles:
        """The five quantiles that are reported."""
        p01, p05, p50, p95, p99 = (self.quantile(histogram, q) for q in (0.01, 0.05, 0.5, 0.95, 0.99))
        return Quantiles(p01=p01, p05=p05, p50=p50, p95=p95, p99=p99)
