"""Contract: what ran against the router's own rule, in its own arithmetic; rounding is not counted.

The rule is applied to the recorded logits, not to recomputed ones, so the precision of the logits plays no
part here. A choice differs only where an expert that was left out beats one that was taken by more than a few
units in the last place, and weights only where their shares of the token's sum do.
"""

import torch
from torch import Tensor

from moeprobe.findings.contract import Contract
from moeprobe.findings.router import Router
from moeprobe.routers.rule import group_scores
from moeprobe.statistics.observation import Observation, edges, repeated
from moeprobe.statistics.rows import both, finite, finite_rows, taken
from moeprobe.statistics.statistic import Statistic, counts

_UNITS = 4
"""Units in the last place that the order of operations in a kernel may cost."""
_FLOOR = 2e-5
"""Relative error of float32 weights that exponentials of different kernels explain."""
_FADED = 1e-12
"""Below this sum of chosen scores the epsilon of a norm shows: the business of sqrt-nan."""


class ContractStatistic(Statistic):
    """Tokens whose experts or weights are not those of the router's rule, or not those that it returned."""

    added = (
        "ran",
        "misplaced",
        "executed",
        "not_returned",
        "other_weights",
        "chosen",
        "choice",
        "weighed",
        "weighting",
    )

    def __init__(self, router: Router) -> None:
        self._router = router
        arithmetic = router.arithmetic
        self._score = _dtype(arithmetic.score if arithmetic else None)
        self._selection = _dtype(arithmetic.selection if arithmetic else None)
        self._weights = _dtype(arithmetic.weights if arithmetic else None)
        self.ran = counts(1)
        self.misplaced = counts(1)
        """Rows that experts executed, and those beyond the rows that chose them; padding included."""
        self.executed = counts(1)
        self.not_returned = counts(1)
        self.other_weights = counts(1)
        self.chosen = counts(1)
        self.choice = counts(3)
        """Other choice, other choice than without the bias, outside the best groups."""
        self.weighed = counts(1)
        self.weighting = counts(2)
        """Other weights than the scores give, than the biased scores give."""

    def update(self, seen: Observation) -> None:
        """Take in the rows whose logits and weights are finite."""
        self._compare_returned(seen)
        if seen.record.misplaced is not None:
            self.ran += seen.record.executed
            self.misplaced += seen.record.misplaced
        logits = seen.record.logits
        if logits is None or self._router.score_function is None:
            return
        experts = seen.record.experts if seen.record.returned_experts is None else seen.record.returned_experts
        weights = seen.record.weights if seen.record.returned_weights is None else seen.record.returned_weights
        columns, rows = logits.shape[-1], seen.clean
        if weights is not seen.record.weights:
            rows = both(rows, finite_rows(weights))
        if experts is not seen.record.experts or not seen.slots_within(columns):
            rows = both(rows, ((experts >= 0) & (experts < columns)).all(dim=-1))
        whole = self._score == torch.float32 and rows is None
        logits = taken(logits, rows).to(self._score)
        score = seen.own_scores if whole else seen.gate.scores(logits)
        if score is None or not score.shape[0]:
            return
        clean = finite_rows(score)
        experts, weights = taken(taken(experts, rows), clean), taken(taken(weights, rows), clean)
        score, logits = taken(score, clean), taken(logits, clean)
        weights = seen.gate.unscaled(weights, experts)
        if self._router.kind != "hash":
            self._compare_choice(seen, score, logits, experts)
        self._compare_weights(seen, score, experts, weights)

    def _compare_returned(self, seen: Observation) -> None:
        given, weights = seen.record.experts, seen.record.weights
        returned, meant = seen.record.returned_experts, seen.record.returned_weights
        self.executed += given.shape[0]
        if returned is None or meant is None or returned.shape != given.shape or meant.shape != weights.shape:
            return
        weights = weights.double()
        # A slot with weight zero does nothing: families park the tokens that they skip there.
        runs = (given >= 0) & (given < self._router.score_columns) & (weights != 0)
        match = given.unsqueeze(-1) == returned.unsqueeze(-2)
        foreign = (runs & ~match.any(dim=-1)).any(dim=-1)
        self.not_returned += int(foreign.sum())
        same = ~foreign & runs.all(dim=-1) & (match.sum(dim=-1) == 1).all(dim=-1)
        aligned = (match.double() * meant.double().unsqueeze(-2)).sum(dim=-1)
        self.other_weights += int((_shares_differ(weights, aligned, self._tolerance) & same).sum())

    def _compare_choice(self, seen: Observation, score: Tensor, logits: Tensor, experts: Tensor) -> None:
        bias = seen.gate.selection_bias
        selection = seen.gate.selection(score, logits)
        if bias is None and self._router.groups is None and _best_ran(seen, selection, experts):
            self.chosen += experts.shape[0]
            return
        ranked = logits if self._router.bias_on == "logits" else score
        room = _UNITS * _eps(self._score) * _largest(ranked).double()
        # Groups that are left out may stand at -inf.
        room = room + _UNITS * _eps(self._selection) * _largest(selection).double()
        clear = torch.ones_like(room, dtype=torch.bool)
        groups = self._router.groups
        outside = torch.zeros_like(clear)
        if groups is not None:
            members = ranked if bias is None else ranked + bias.to(ranked.device)
            ranked = group_scores(members, groups).double()
            best = ranked.topk(groups.kept + 1, dim=-1)
            # Which group was kept is not known where two of them are equal up to rounding.
            clear = best.values[:, -2] - best.values[:, -1] > 2 * room
            kept = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, best.indices[:, :-1], True)
            outside = ~kept.gather(-1, experts // (score.shape[-1] // groups.count)).all(dim=-1)
        differs = _departs(selection.double(), experts, room)
        unbiased = differs
        if bias is not None:
            unbiased = _departs(seen.gate.selection(score, logits, biased=False).double(), experts, room)
        self.chosen += int(clear.sum())
        self.choice += torch.stack([(part & clear).sum() for part in (differs, unbiased, outside)]).cpu()

    def _compare_weights(self, seen: Observation, score: Tensor, experts: Tensor, weights: Tensor) -> None:
        bias = seen.gate.selection_bias
        chosen = score.gather(-1, experts).double()
        total = chosen.sum(dim=-1)
        usable = None if not total.numel() or float(total.amin()) > _FADED else total > _FADED
        chosen, given = taken(chosen, usable), taken(weights, usable).double()
        plain = self._unlike(given, chosen)
        biased = plain
        if bias is not None:
            biased = self._unlike(given, chosen + bias.to(score.device).double()[taken(experts, usable)])
        self.weighed += chosen.shape[0]
        self.weighting += torch.stack([plain.sum(), biased.sum()]).cpu()

    def _unlike(self, given: Tensor, scores: Tensor) -> Tensor:
        """[tokens] whether weights and scores differ, as shares of the token's sum: factors play no part."""
        factor = self._router.scaling_factor
        if given.shape[-1] == 1 and not self._router.renormalised and factor:
            return (given - factor * scores).abs().squeeze(-1) > self._tolerance * (factor * scores).abs().squeeze(-1)
        return _shares_differ(given, scores, self._tolerance)

    @property
    def _tolerance(self) -> float:
        return max(_UNITS * _eps(self._weights), _UNITS * _eps(self._score), _FLOOR)

    def value(self) -> Contract | None:
        """The differences in tokens, None where no token was seen."""
        if int(self.executed) == 0:
            return None
        chosen, weighed = int(self.chosen), int(self.weighed)
        biased = self._router.selection_bias is not None
        choice, unbiased, outside = self.choice.tolist()
        plain, with_bias = self.weighting.tolist()
        return Contract(
            ran=int(self.ran),
            misplaced=int(self.misplaced),
            executed=int(self.executed),
            not_returned=int(self.not_returned),
            other_weights=int(self.other_weights),
            chosen=chosen,
            other_choice=choice if chosen else None,
            other_choice_unbiased=unbiased if chosen and biased else None,
            outside_groups=outside if chosen and self._router.groups else None,
            weighed=weighed,
            other_weighting=plain if weighed else None,
            other_weighting_biased=with_bias if weighed and biased else None,
        )


def _largest(values: Tensor) -> Tensor:
    """[tokens] the largest absolute value that is finite."""
    largest = values.abs().amax(dim=-1)
    if finite(largest) is None:
        return largest
    return torch.where(torch.isfinite(values), values, 0.0).abs().amax(dim=-1)


def _departs(selection: Tensor, experts: Tensor, room: Tensor) -> Tensor:
    """[tokens] whether an expert outside the set beats one inside by more than ``room``, or one is in it twice."""
    inside, outside = edges(selection, experts)
    return (outside - inside.amin(dim=-1) > room) | repeated(experts)


def _best_ran(seen: Observation, selection: Tensor, experts: Tensor) -> bool:
    """Whether in every row ``experts`` are distinct, and none that was left out scores higher than any of them."""
    if selection is seen.selection and experts is seen.chosen and seen.margin is not None:
        return float(seen.margin.amin()) > 0
    inside, outside = edges(selection, experts)
    return bool((outside <= inside.amin(dim=-1)).all()) and not bool(repeated(experts).any())


def _shares_differ(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """[tokens] whether the rows, each divided by its sum, differ by more than ``tolerance`` of the largest share."""
    one = first / first.sum(dim=-1, keepdim=True)
    other = second / second.sum(dim=-1, keepdim=True)
    gap = (one - other).abs().amax(dim=-1)
    return gap > tolerance * other.abs().amax(dim=-1)


def _dtype(name: str | None) -> torch.dtype:
    found: torch.dtype = getattr(torch, name or "float32")
    return found


def _eps(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)
