"""Lost experts: where the tokens of the experts that a pruned model lacks are sent now."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moeprobe.findings.drift import LostExpert, Pruning, Receiver
from moeprobe.records.record import Record
from moeprobe.statistics.statistic import State, counts

_NAMED = 4
"""Receivers that are named for each lost expert."""


class LostExperts(State):
    """Counts of the base's choices [columns] and of new choices, [columns, columns], under the base's numbers.

    Args:
        columns: of the base.
        kept: [columns of the tuned model] the base's number of each expert.

    """

    added = ("load", "moved")

    def __init__(self, columns: int, kept: Sequence[int]) -> None:
        self._kept = list(kept)
        self.load = counts(columns)
        self.moved = counts(columns, columns)

    def update(self, base: Record, tuned: Record) -> None:
        """Take in the same tokens of both models; ``base`` as it was recorded."""
        before, after = self._chosen(base.experts.cpu()), self._chosen(self._named(tuned.experts.cpu()))
        self.load += before.sum(dim=0).long()
        # What a token is sent to now and was not before stands in for each expert that it lost.
        self.moved += (before.T @ (after * (1 - before))).round().long()

    def _named(self, experts: Tensor) -> Tensor:
        """The tuned model's experts under the base's numbers."""
        kept = torch.tensor(self._kept)
        return kept[experts.clamp(0, len(kept) - 1)].where(experts >= 0, torch.tensor(-1))

    def _chosen(self, experts: Tensor) -> Tensor:
        """[tokens, columns] float64, 1 where an expert was chosen."""
        chosen = torch.zeros(experts.shape[0], len(self.load) + 1, dtype=torch.float64)
        chosen.scatter_(-1, experts.where(experts >= 0, torch.tensor(len(self.load))), 1.0)
        return chosen[:, :-1]

    def value(self, together: bool | None) -> Pruning:
        """Which experts are gone; ``together`` says whether those left have the base's tensors."""
        gone = sorted(set(range(len(self.load))) - set(self._kept))
        fair = max(float(self.load.sum()), 1.0) / len(self.load)
        return Pruning(kept=self._kept, gone=[self._lost(expert, fair) for expert in gone], together=together)

    def _lost(self, expert: int, fair: float) -> LostExpert:
        moved = self.moved[expert]
        best = moved.topk(min(_NAMED, len(moved)))
        total = max(int(moved.sum()), 1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return LostExpert(
            expert=expert,
            load=float(self.load[expert]) / fair,
            tokens=int(self.load[expert]),
            receivers=[Receiver(expert=to, share=count / total) for to, count in pairs if count],
        )
