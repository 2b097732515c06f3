"""Repeats: how often consecutive tokens go to the same expert (Mixtral, 2401.04088, table 5)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import Repeats
from moeprobe.statistics.clusters import CLUSTERS
from moeprobe.statistics.document_labels import LabelledDocuments
from moeprobe.statistics.intervals import bootstrap
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.shuffle import within_documents
from moeprobe.statistics.slots import by_preference
from moeprobe.statistics.statistic import Statistic, counts

_SHUFFLES = 4
_PAIRS, _FIRST, _EITHER, _SHARED, _SLOTS = range(5)


class RepeatStatistic(Statistic):
    """Pairs of neighbours by cluster of documents, [clusters, 5]: pairs, same first, any same, same, slots.

    ``shuffled`` has the same with the choices permuted within their document, [clusters, 5].
    """

    added = ("seen", "shuffled")

    def __init__(self, router: Router, documents: LabelledDocuments) -> None:
        self._router = router
        self._documents = documents
        self.seen = counts(CLUSTERS, 5)
        self.shuffled = counts(CLUSTERS, 5)

    def update(self, seen: Observation) -> None:
        """Count the neighbours of one record; it holds whole documents, their tokens in order."""
        record = seen.record
        documents, positions = record.documents.cpu(), record.positions.cpu()
        experts = record.experts.gather(-1, by_preference(seen)).cpu()
        neighbours = (documents[1:] == documents[:-1]) & (positions[1:] == positions[:-1] + 1)
        cluster = self._documents.cluster[documents[1:][neighbours]]
        self.seen += _count(experts, neighbours, cluster)
        for draw in range(_SHUFFLES):
            self.shuffled += _count(experts[within_documents(documents, positions, draw)], neighbours, cluster)

    def value(self) -> Repeats | None:
        """Shares of pairs; None where no two consecutive tokens were seen."""
        seen = self.seen.sum(dim=0).tolist()
        random = self.shuffled.sum(dim=0).tolist()
        if not seen[_PAIRS]:
            return None
        experts, k = self._router.experts, self._router.top_k
        documents = int(self._documents.members[self.seen[:, _PAIRS] > 0].sum())

        def share(part: int, whole: int) -> Any:
            return bootstrap(self.seen, documents, lambda sums: sums[..., part] / np.maximum(sums[..., whole], 1))

        by_source: dict[str, list[int]] = {}
        for cluster, label in enumerate(self._documents.labels["source"]):
            if label is not None and int(self.seen[cluster, _PAIRS]):
                pairs, same = by_source.get(label, [0, 0])
                now = self.seen[cluster].tolist()
                by_source[label] = [pairs + now[_PAIRS], same + now[_FIRST]]
        return Repeats(
            pairs=seen[_PAIRS],
            first=share(_FIRST, _PAIRS),
            first_chance=random[_FIRST] / random[_PAIRS],
            first_even=1 / experts,
            either=share(_EITHER, _PAIRS),
            either_chance=random[_EITHER] / random[_PAIRS],
            either_even=1 - math.comb(experts - k, k) / math.comb(experts, k),
            overlap=share(_SHARED, _SLOTS),
            overlap_chance=random[_SHARED] / max(random[_SLOTS], 1),
            first_by_source={label: same / pairs for label, (pairs, same) in sorted(by_source.items())},
        )


def _count(experts: Tensor, neighbours: Tensor, cluster: Tensor) -> Tensor:
    """[clusters, 5] for the pairs of rows where ``neighbours`` is true; rows without any expert make no pair."""
    before, after = experts[:-1][neighbours], experts[1:][neighbours]
    both = (before[:, 0] >= 0) & (after[:, 0] >= 0)
    before, after, cluster = before[both], after[both], cluster[both]
    same = ((after.unsqueeze(-1) == before.unsqueeze(-2)) & (after >= 0).unsqueeze(-1)).any(dim=-1)
    columns = (
        torch.ones_like(cluster),
        (before[:, 0] == after[:, 0]).long(),
        same.any(dim=-1).long(),
        same.sum(dim=-1),
        (after >= 0).sum(dim=-1),
    )
    counted = counts(CLUSTERS, len(columns))
    return counted.index_add_(0, cluster, torch.stack(columns, dim=-1))
