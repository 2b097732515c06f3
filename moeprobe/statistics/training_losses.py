"""Training losses: the balance loss and the z-loss of training, on this checkpoint and these texts."""

import math

import torch

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import TrainingLosses
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.statistic import Statistic, counts, sums


class TrainingLossStatistic(Statistic):
    """What the losses are made of: first choices and choices of the softmax [experts], its probabilities [experts].

    Frameworks apply a softmax to the logits whatever the router does with them, and leave a selection bias out
    (docs/science.md A1); this does the same, and says so where it matters.
    """

    added = ("first", "chosen", "probability", "squared", "log_sum_exp", "tokens")

    def __init__(self, router: Router) -> None:
        self._router = router
        self.first = counts(router.score_columns)
        self.chosen = counts(router.score_columns)
        self.probability = sums(router.score_columns)
        self.squared = sums(1)
        self.log_sum_exp = sums(1)
        self.tokens = counts(1)

    def update(self, seen: Observation) -> None:
        """Take in the rows whose logits are finite; a hash router does not choose by its logits."""
        logits = seen.record.logits
        if logits is None or self._router.kind == "hash":
            return
        logits = logits[torch.isfinite(logits).all(dim=-1)].double().cpu()
        columns = logits.shape[1]
        choice = logits.topk(min(self._router.top_k, columns), dim=-1).indices
        self.tokens += logits.shape[0]
        self.first += torch.bincount(choice[:, 0], minlength=columns)
        self.chosen += torch.bincount(choice.flatten(), minlength=columns)
        self.probability += logits.softmax(dim=-1).sum(dim=0)
        total = logits.logsumexp(dim=-1)
        self.squared += total.square().sum()
        self.log_sum_exp += total.sum()

    def value(self) -> TrainingLosses | None:
        """The losses without their weights; None where no logits were seen."""
        tokens = int(self.tokens)
        if tokens == 0:
            return None
        columns, mean = self.first.numel(), self.probability / tokens
        return TrainingLosses(
            tokens=tokens,
            switch=float(columns * (self.first.double() / tokens * mean).sum()),
            transformers=float(columns * (self.chosen.double() / tokens * mean).sum()),
            z=float(self.squared / tokens),
            log_sum_exp=float(self.log_sum_exp / tokens) - math.log(columns),
            softmax=self._router.score_function == "softmax",
        )


def pooled_balance_loss(layers: list[TrainingLossStatistic]) -> float | None:
    """The balance loss as transformers logs it: counts and probabilities of all layers in one heap, then multiplied.

    None where there are no layers with logits, or layers differ in experts or top-k.
    """
    seen = [one for one in layers if int(one.tokens)]
    shapes = {(one.first.numel(), one._router.top_k) for one in seen}
    if len(shapes) != 1:
        return None
    rows = sum(int(one.tokens) for one in seen)
    chosen = torch.stack([one.chosen for one in seen]).sum(dim=0).double() / rows
    probability = torch.stack([one.probability for one in seen]).sum(dim=0) / rows
    return float(chosen.numel() * (chosen * probability).sum())
