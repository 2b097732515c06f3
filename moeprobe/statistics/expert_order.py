"""Expert order: whether the experts of two models stand in the same order, seen from what moves together."""

import torch
from torch import Tensor

from moeprobe.findings.drift import Renumbering
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.statistic import State, sums


class ExpertOrder(State):
    """Cross products of the logits of two models over tokens, [columns, columns], and what centres them.

    A learned gate whose rows were permuted gives each column's logits to another column, whatever biases and groups
    make of them afterwards; so columns are matched by the correlation of their logits over tokens. A hash
    table is no function of the logits: there the indicators *was chosen* take their place.
    """

    added = ("tokens", "cross", "base_sum", "tuned_sum", "base_square", "tuned_square")

    def __init__(self, base: Gate) -> None:
        columns = base.router.score_columns
        self._hash = base.router.kind == "hash"
        self.tokens = sums(1)
        self.cross = sums(columns, columns)
        self.base_sum, self.tuned_sum = sums(columns), sums(columns)
        self.base_square, self.tuned_square = sums(columns), sums(columns)

    def update(self, base: Record, tuned: Record) -> None:
        """Take in the same tokens of both models, in the same order."""
        first, second = self._columns(base), self._columns(tuned)
        if first is None or second is None or first.shape != second.shape:
            return
        usable = torch.isfinite(first).all(dim=-1) & torch.isfinite(second).all(dim=-1)
        first, second = first[usable], second[usable]
        self.tokens += float(usable.sum())
        self.cross += first.T @ second
        self.base_sum += first.sum(dim=0)
        self.tuned_sum += second.sum(dim=0)
        self.base_square += first.square().sum(dim=0)
        self.tuned_square += second.square().sum(dim=0)

    def _columns(self, record: Record) -> Tensor | None:
        """[tokens, columns] float64: logits without their per-token mean, or who was chosen."""
        if self._hash:
            columns = self.cross.shape[0]
            experts = record.experts.cpu()
            used = ((experts >= 0) & (experts < columns)).double()
            chosen = torch.zeros(experts.shape[0], columns, dtype=torch.float64)
            return chosen.scatter_add_(-1, experts.clamp(0, columns - 1), used)
        if record.logits is None:
            return None
        logits = record.logits.cpu().double()
        return logits - logits.mean(dim=-1, keepdim=True)

    def value(self) -> Renumbering | None:
        """The order in which the tuned model's experts answer to the base's; None where it is the same, or none is."""
        tokens = float(self.tokens)
        if tokens < 2:
            return None
        covariance = self.cross - torch.outer(self.base_sum, self.tuned_sum) / tokens
        spreads = [
            (square - total.square() / tokens).clamp_min(0).sqrt()
            for square, total in ((self.base_square, self.base_sum), (self.tuned_square, self.tuned_sum))
        ]
        likeness = covariance / torch.outer(*spreads).clamp_min(1e-300)
        now = likeness.argmax(dim=-1)
        rows = torch.arange(len(now))
        moved = now != rows
        if not bool(moved.any()) or len(set(now.tolist())) < len(now):
            return None
        return Renumbering(
            now=now.tolist(),
            likeness=float(likeness[rows, now][moved].mean()),
            likeness_as_is=float(likeness.diagonal()[moved].mean()),
        )
