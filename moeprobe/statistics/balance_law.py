"""Balance law: a trained selection bias follows the quantiles of the experts' own scores.

Where the sign rule has settled, every expert is chosen for a share k/E of the tokens, which gives
b*[e] = const - Q_e(1 - k/E) with Q_e the quantile of expert e's own score (docs/science.md B2).
"""

import torch

from moeprobe.findings.evidence import BalanceLaw
from moeprobe.findings.router import Router
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.statistic import Statistic, counts

_BINS = 512
_LOW, _HIGH = -24.0, 24.0


class BalanceLawStatistic(Statistic):
    """A histogram of each expert's log-score, [columns, bins]; only for routers with a selection bias."""

    added = ("histogram",)

    def __init__(self, router: Router) -> None:
        self._router = router
        self.histogram = counts(router.score_columns if router.selection_bias else 0, _BINS)
        self._edges = torch.linspace(_LOW, _HIGH, _BINS + 1, dtype=torch.float64)

    def update(self, seen: Observation) -> None:
        """Count log(score) per expert."""
        if not self.histogram.numel() or seen.scores is None:
            return
        if self._router.bias_on == "logits":
            # The law compares the bias with quantiles of what it is added to; it is only kept for scores.
            return
        scores = seen.scores[torch.isfinite(seen.scores).all(dim=-1)].double().clamp_min(1e-10).log().cpu()
        bins = ((scores - _LOW) / (_HIGH - _LOW) * _BINS).long().clamp(0, _BINS - 1)
        flat = bins + torch.arange(bins.shape[1]) * _BINS
        self.histogram += torch.bincount(flat.flatten(), minlength=self.histogram.numel()).reshape(-1, _BINS)

    def value(self) -> BalanceLaw | None:
        """Correlation of the bias with -Q and the slope of the line through both; None without a bias."""
        bias = self._router.selection_bias
        if bias is None or not int(self.histogram.sum()):
            return None
        share = 1 - self._router.top_k / self._router.score_columns
        cumulative = self.histogram.cumsum(dim=-1).double()
        target = share * cumulative[:, -1:]
        index = torch.searchsorted(cumulative, target).squeeze(-1).clamp_max(_BINS - 1)
        rows = torch.arange(index.numel())
        before = torch.where(index > 0, cumulative[rows, index - 1], 0.0)
        inside = self.histogram[rows, index].double().clamp_min(1)
        width = (_HIGH - _LOW) / _BINS
        quantile = (self._edges[index] + (target.squeeze(-1) - before) / inside * width).exp()
        values = torch.tensor(bias.values, dtype=torch.float64)
        x, y = -(quantile - quantile.mean()), values - values.mean()
        spread = float(x.square().sum() * y.square().sum()) ** 0.5
        if not torch.isfinite(values).all() or spread == 0:
            return BalanceLaw(correlation=None, slope=None)
        along = float((x * y).sum())
        return BalanceLaw(
            correlation=along / spread, slope=along / float(x.square().sum()), quantiles=quantile.tolist()
        )
