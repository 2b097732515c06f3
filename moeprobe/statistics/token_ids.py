"""Token-id choices: how much the id of a token says about its experts, beside the shuffle null."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import TokenIds
from moeprobe.findings.router import Router
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.slots import tabulate
from moeprobe.statistics.statistic import Statistic, counts

TRACKED = 256
"""The most frequent token ids of the probe; every other id falls into one common row."""


def frequent(ids: Tensor) -> Tensor:
    """The ids to follow, ascending, of all that are there, the most frequent first."""
    return ids[:TRACKED].sort().values


class TokenIdStatistic(Statistic):
    """Assignments by token id, [ids + 1, columns], as seen and with the experts shuffled within a document.

    The plug-in mutual information is biased upwards, and k assignments of a token depend on each other, so
    the same number on shuffled choices is the honest zero (docs/science.md E7).

    Args:
        router: facts; its number of score columns is the width.
        ids: the token ids to follow, ascending (``frequent``).

    """

    added = ("seen", "shuffled", "tokens")

    def __init__(self, router: Router, ids: Tensor) -> None:
        self._ids = ids
        self.seen = counts(self._ids.numel() + 1, router.score_columns)
        self.shuffled = counts(self._ids.numel() + 1, router.score_columns)
        self.tokens = counts(1)

    def update(self, seen: Observation) -> None:
        """Count one record; it holds whole documents, within which the experts are permuted for the null."""
        row = seen.tokens.places(self._ids)
        if row is None:
            return
        experts, named = seen.record.experts.cpu(), seen.slots_within(self.seen.shape[1])
        self.tokens += experts.shape[0]
        self.seen += tabulate(row, experts, self.seen.shape, named)
        key = torch.rand(experts.shape[0], generator=seen.generator(2), dtype=torch.float64)
        order = torch.argsort(key.add_(seen.tokens.documents))
        here = seen.tokens.in_order
        self.shuffled += tabulate(row if here is None else row[here], experts[order], self.shuffled.shape, named)

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
