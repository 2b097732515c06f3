"""Hash use: the recorded experts of a hash router against its table."""

import torch

from moeprobe.findings.evidence import HashUse
from moeprobe.findings.router import Router
from moeprobe.routers.rule import same_set
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.statistic import Statistic, counts


class HashStatistic(Statistic):
    """Tokens whose experts are not those of ``tid2eid[token id]``, and the load that the table predicts."""

    added = ("mismatches", "predicted", "tokens")

    def __init__(self, router: Router) -> None:
        self._router = router
        self.mismatches = counts(1)
        self.predicted = counts(router.score_columns)
        self.tokens = counts(1)

    def update(self, seen: Observation) -> None:
        """Look every token id up in the table; ids outside of it count as mismatches."""
        table, ids = seen.gate.table, seen.record.token_ids
        if table is None or ids is None:
            return
        inside = (ids >= 0) & (ids < table.shape[0])
        expected = table[ids[inside].to(table.device)].long()
        experts = seen.record.experts[inside].to(table.device)
        self.tokens += ids.numel()
        self.mismatches += int((~inside).sum()) + int((~same_set(expected, experts)).sum())
        valid = expected[(expected >= 0) & (expected < self.predicted.numel())]
        self.predicted += torch.bincount(valid.cpu(), minlength=self.predicted.numel())

    def value(self) -> HashUse | None:
        """Mismatches and predicted load; None for learned routers."""
        if self._router.kind != "hash" or int(self.tokens) == 0:
            return None
        return HashUse(mismatches=int(self.mismatches), predicted_counts=self.predicted.tolist())
