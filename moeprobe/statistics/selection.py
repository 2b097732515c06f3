"""Selection: how firm the choice is."""

import math

import torch

from moeprobe.findings.evidence import Selection
from moeprobe.findings.router import Router
from moeprobe.routers.routing import lengths
from moeprobe.routers.rule import same_set
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import both, finite, finite_rows, taken
from moeprobe.statistics.statistic import Statistic, counts

_MARGIN = Scale(1e-6, 1e3)
_SETS = 4_096
"""Buckets of expert sets. A collision can only raise the modal share, by 1/4,096 on average."""
_64_BITS = 2**64 - 1


class SelectionStatistic(Statistic):
    """Margins, exact ties, the most frequent set, flips under noise and in float32. Learned routers only."""

    added = ("margin", "tokens", "ties", "sets", "bias_only", "noise", "precision")

    def __init__(self, router: Router) -> None:
        self._router = router
        self._keys = torch.tensor([_mixed(column) for column in range(router.score_columns + 1)], dtype=torch.int64)
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
        columns = seen.scores.shape[-1]
        used = None if seen.slots_within(columns) else (seen.record.experts >= 0).all(dim=-1)
        rows = both(both(seen.clean, finite_rows(seen.scores)), used)
        experts = taken(seen.record.experts, rows)
        if not experts.shape[0]:
            return
        self.tokens += experts.shape[0]
        if seen.margin is not None:
            gap = taken(seen.margin, rows)
            self.ties += int((gap == 0).sum())
            self.margin += _MARGIN.count(gap / _spread(taken(seen.selection, rows)).clamp_min_(1e-30))
        self.sets += torch.bincount(self._bucket(experts.cpu()), minlength=_SETS)
        bias = seen.gate.selection_bias
        if bias is not None:
            nothing = torch.zeros_like(seen.scores[:1])
            alone = seen.gate.selection(nothing, nothing)
            self.bias_only += int(same_set(seen.gate.choose(alone), experts).sum())
        if seen.noisy is not None:
            self.noise += int(taken(seen.noisy, rows).sum())
        if seen.rounded is not None:
            self.precision += int(taken(seen.rounded, rows).sum())

    def _bucket(self, experts: torch.Tensor) -> torch.Tensor:
        """The bucket [tokens] of each set [tokens, k]: sums of one fixed random number an expert, in any order."""
        keys = self._keys[experts.clamp_max(self._keys.numel() - 1)].sum(dim=-1)
        return (keys >> 32) % _SETS

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
    sizes = lengths(selection - selection.mean(dim=-1, keepdim=True))
    if finite(sizes) is None:
        return sizes.double().div_(math.sqrt(selection.shape[-1]))
    usable = torch.where(torch.isfinite(selection), selection.double(), torch.nan)
    spread: torch.Tensor = (usable - usable.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()
    return spread


def _mixed(number: int) -> int:
    """A fixed random 62-bit number for each number (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _64_BITS
    return (mixed ^ mixed >> 31) >> 2
