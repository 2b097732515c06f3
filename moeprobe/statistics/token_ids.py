"""Token-id choices: how much the id of a token says about its experts, beside the shuffle null."""

import numpy as np
import torch
from torch import Tensor

from moeprobe.findings.evidence import TokenIds
from moeprobe.findings.router import Router
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import taken
from moeprobe.statistics.statistic import Statistic, counts

TRACKED = 256
"""The most frequent token ids of the probe; every other id falls into one common row."""


class TokenIdStatistic(Statistic):
    """Assignments by token id, [ids + 1, columns], as seen and with the experts shuffled within a document.

    The plug-in mutual information is biased upwards, and k assignments of a token depend on each other, so
    the same number on shuffled choices is the honest zero (docs/science.md E7).

    Args:
        router: facts; its number of score columns is the width.
        ids: the token ids to follow, most frequent first.

    """

    added = ("seen", "shuffled", "tokens")

    def __init__(self, router: Router, ids: Tensor) -> None:
        self._ids = ids[:TRACKED].sort().values
        self.seen = counts(self._ids.numel() + 1, router.score_columns)
        self.shuffled = counts(self._ids.numel() + 1, router.score_columns)
        self.tokens = counts(1)

    def update(self, seen: Observation) -> None:
        """Count one record; it holds whole documents, within which the experts are permuted for the null."""
        record = seen.record
        if record.token_ids is None or not self._ids.numel():
            return
        ids = record.token_ids.cpu()
        # numpy's search is some twenty times as fast as torch's on integers.
        place = torch.from_numpy(np.searchsorted(self._ids.numpy(), ids.numpy())).clamp_max(self._ids.numel() - 1)
        row = torch.where(self._ids[place] == ids, place, self._ids.numel())
        experts = record.experts.cpu()
        key = torch.rand(experts.shape[0], generator=seen.generator(2), dtype=torch.float64)
        documents = record.documents.cpu()
        order = torch.argsort(documents + key)
        here = torch.argsort(documents, stable=True)
        mixed = torch.empty_like(experts)
        mixed[here] = experts[order]
        self.tokens += record.tokens
        self._add(self.seen, row, experts)
        self._add(self.shuffled, row, mixed)

    @staticmethod
    def _add(table: Tensor, row: Tensor, experts: Tensor) -> None:
        used = (experts >= 0) & (experts < table.shape[1])
        flat = taken((row.unsqueeze(-1) * table.shape[1] + experts).flatten(), used.flatten())
        table += torch.bincount(flat, minlength=table.numel()).reshape(table.shape)

    def value(self) -> TokenIds | None:
        """Mutual information in nats, its shuffle null, and the entropy of the load in nats."""
        if int(self.tokens) == 0 or not int(self.seen.sum()):
            return None
        load = self.seen.sum(dim=0).double()
        share = load / load.sum()
        return TokenIds(
            information=_information(self.seen),
            shuffled=_information(self.shuffled),
            entropy=float(-(share * share.clamp_min(1e-300).log()).sum()),
            ids=int((self.seen.sum(dim=1) > 0).sum()),
            tokens=int(self.tokens),
        )


def _information(table: Tensor) -> float:
    """Plug-in mutual information of a table of counts, in nats."""
    joint = table.double() / table.sum()
    fair = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    present = joint > 0
    return float((joint[present] * (joint[present] / fair[present]).log()).sum())
