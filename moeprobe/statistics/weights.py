"""Routing weights: their sums, against what the rule promises for the recorded logits."""

import torch

from moeprobe.findings.evidence import Weights
from moeprobe.findings.numbers import Quantiles
from moeprobe.findings.router import Router
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import both, finite, finite_rows, left_out, taken
from moeprobe.statistics.statistic import Statistic, counts

_SUM = Scale(1e-8, 1e4)
TOLERANCE_FLOAT32 = 1e-3
TOLERANCE_16_BIT = 2.0**-6
"""Relative deviation of a weight sum from its promise that rounding explains (see sqrt-nan)."""


class WeightStatistic(Statistic):
    """Sums of weights, their ratio to the promise, non-finite weights, the smallest chosen score."""

    added = ("sum", "tokens", "nonfinite", "promised", "broken")
    least = ("smallest_sum", "smallest_ratio", "smallest_score")
    most = ("largest_sum", "largest_ratio")

    def __init__(self, router: Router) -> None:
        self._router = router
        self.sum = _SUM.zeros()
        self.tokens = counts(1)
        self.nonfinite = counts(1)
        self.promised = counts(1)
        self.broken = counts(1)
        for name in self.least:
            setattr(self, name, torch.tensor([float("inf")], dtype=torch.float64))
        for name in self.most:
            setattr(self, name, torch.tensor([float("-inf")], dtype=torch.float64))

    smallest_sum: torch.Tensor
    largest_sum: torch.Tensor
    smallest_ratio: torch.Tensor
    largest_ratio: torch.Tensor
    smallest_score: torch.Tensor

    def update(self, seen: Observation) -> None:
        """Take in the weights of one record."""
        experts = seen.record.experts
        weights = seen.gate.unscaled(seen.record.weights.double(), experts)
        clean = seen.weighed if seen.gate.expert_scale is None else finite_rows(weights)
        self.nonfinite += left_out(clean)
        self.tokens += weights.shape[0]
        # A token that was dropped, or skipped by choice, has no weights to speak of.
        rows = both(clean, seen.used)
        total = taken(weights, rows).sum(dim=-1)
        if not total.numel():
            return
        self.sum += _SUM.count(total)
        self._extremes("sum", total)
        promise = self._promise(seen)
        if promise is None:
            return
        promise = taken(promise, rows)
        usable = both(finite(promise), None if float(promise.amin()) > 0 else promise > 0)
        ratio = taken(total, usable) / taken(promise, usable)
        if ratio.numel():
            arithmetic = self._router.arithmetic
            tolerance = TOLERANCE_FLOAT32 if arithmetic and arithmetic.weights == "float32" else TOLERANCE_16_BIT
            self.promised += ratio.numel()
            self.broken += int(((ratio - 1).abs() > tolerance).sum())
            self._extremes("ratio", ratio)

    def _promise(self, seen: Observation) -> torch.Tensor | None:
        """Sum of weights [tokens] that the rule gives: the factor, or factor x sum of the chosen scores."""
        router = self._router
        factor = router.scaling_factor
        if router.declared.scaling_factor is not None and router.output_factor == 1.0:
            # Only where the block adds nothing of its own must the config's factor be inside the weights.
            factor = router.declared.scaling_factor
        scores = seen.scores if seen.record.logits is None else seen.own_scores
        if factor is None or router.renormalised is None or scores is None:
            return None
        experts = seen.record.experts
        full = seen.slots_within(scores.shape[-1])
        named = experts if full else experts.clamp(0, scores.shape[-1] - 1)
        chosen = scores.gather(-1, named).double()
        if not full:
            chosen = chosen.masked_fill(experts < 0, 0.0)
        flat = chosen.flatten()
        real = taken(flat, both(finite(flat), None if full else (experts >= 0).flatten()))
        if real.numel():
            self.smallest_score = torch.minimum(self.smallest_score, real.amin().cpu().reshape(1))
        if router.renormalised:
            # Whether a norm was taken before or after slots were dropped is the family's choice.
            promise = torch.full_like(chosen[:, 0], factor)
            return promise if full else promise.masked_fill((experts < 0).any(dim=-1), float("nan"))
        return factor * chosen.sum(dim=-1)

    def _extremes(self, name: str, values: torch.Tensor) -> None:
        low, high = f"smallest_{name}", f"largest_{name}"
        least, most = torch.aminmax(values)
        setattr(self, low, torch.minimum(getattr(self, low), least.cpu().reshape(1)))
        setattr(self, high, torch.maximum(getattr(self, high), most.cpu().reshape(1)))

    def value(self) -> Weights | None:
        """The weights in numbers, None where no token was seen."""
        if int(self.tokens) == 0:
            return None
        promised = int(self.promised) > 0
        return Weights(
            sum=_within(_SUM.quantiles(self.sum), _known(self.smallest_sum), _known(self.largest_sum)),
            smallest_sum=_known(self.smallest_sum),
            largest_sum=_known(self.largest_sum),
            promise_smallest=_known(self.smallest_ratio),
            promise_largest=_known(self.largest_ratio),
            broken_promises=int(self.broken) if promised else None,
            nonfinite=int(self.nonfinite),
            smallest_chosen_score=_known(self.smallest_score),
        )


def _within(quantiles: Quantiles, low: float | None, high: float | None) -> Quantiles:
    """A histogram knows its quantiles to the width of a bin; the extremes are known exactly."""
    if low is None or high is None:
        return quantiles
    clipped = {name: None if q is None else min(max(q, low), high) for name, q in quantiles.model_dump().items()}
    return Quantiles(**clipped)


def _known(state: torch.Tensor) -> float | None:
    number = float(state)
    return number if abs(number) != float("inf") else None
