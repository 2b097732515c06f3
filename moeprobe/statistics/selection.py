"""Selection: how firm the choice is."""

import torch

from moeprobe.findings.evidence import Selection
from moeprobe.findings.router import Router
from moeprobe.routers.rule import same_set
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import finite_rows, taken
from moeprobe.statistics.statistic import Statistic, counts

_MARGIN = Scale(1e-6, 1e3)
_SETS = 4_096
"""Buckets of expert sets. A collision can only raise the modal share, by 1/4,096 on average."""


class SelectionStatistic(Statistic):
    """Margins, exact ties, the most frequent set, flips under noise and in float32. Learned routers only."""

    added = ("margin", "tokens", "ties", "sets", "bias_only", "noise", "precision")

    def __init__(self, router: Router) -> None:
        self._router = router
        self.margin = _MARGIN.zeros()
        self.tokens = counts(1)
        self.ties = counts(1)
        self.sets = counts(_SETS)
        self.bias_only = counts(1)
        self.noise = counts(1)
        self.precision = counts(1)

    def update(self, seen: Observation) -> None:
        """Take in the rows whose logits are finite and whose slots are all used."""
        if seen.selection is None or seen.chosen is None or seen.scores is None:
            return
        rows = seen.clean & finite_rows(seen.scores) & (seen.record.experts >= 0).all(dim=-1)
        if not bool(rows.any()):
            return
        experts = taken(seen.record.experts, rows)
        self.tokens += int(rows.sum())
        if seen.margin is not None:
            gap = taken(seen.margin, rows)
            self.ties += int((gap == 0).sum())
            self.margin += _MARGIN.count(gap / _spread(taken(seen.selection, rows).double()).clamp_min(1e-30))
        ordered = experts.sort(dim=-1).values.cpu()
        self.sets += torch.bincount(_bucket(ordered), minlength=_SETS)
        bias = seen.gate.selection_bias
        if bias is not None:
            nothing = torch.zeros_like(taken(seen.scores, rows))
            alone = seen.gate.selection(nothing, nothing)
            self.bias_only += int(same_set(seen.gate.choose(alone), experts).sum())
        if seen.noisy is not None:
            self.noise += int((seen.noisy & rows).sum())
        if seen.rounded is not None:
            self.precision += int((seen.rounded & rows).sum())

    def value(self) -> Selection | None:
        """Shares of tokens; None for hash routers and where no token was seen."""
        n = int(self.tokens)
        if n == 0:
            return None
        return Selection(
            margin=_MARGIN.quantiles(self.margin),
            ties=int(self.ties) / n,
            modal=int(self.sets.max()) / n,
            bias_only=int(self.bias_only) / n if self._router.selection_bias is not None else None,
            flips_noise=int(self.noise) / n,
            flips_float32=int(self.precision) / n,
        )


def _spread(selection: torch.Tensor) -> torch.Tensor:
    """[tokens] standard deviation over the finite selection scores (groups that are left out may stand at -inf)."""
    if bool(torch.isfinite(selection.sum())):
        return (selection - selection.mean(dim=-1, keepdim=True)).square().mean(dim=-1).sqrt()
    finite = torch.where(torch.isfinite(selection), selection, torch.nan)
    return (finite - finite.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()


def _bucket(ordered: torch.Tensor) -> torch.Tensor:
    """A polynomial hash of each sorted set [tokens, k] into its bucket."""
    key = torch.zeros(ordered.shape[0], dtype=torch.int64)
    for column in ordered.unbind(dim=-1):
        key = (key * 1_000_003 + column + 1) % 2_147_483_647
    return (key * 2_654_435_761 % 4_294_967_296) >> 20
