"""Load: who was chosen, by cluster of documents and by source."""

import math

import torch

from moeprobe.findings.evidence import Load
from moeprobe.findings.router import Router
from moeprobe.statistics.clusters import CLUSTERS, assign, design_effects
from moeprobe.statistics.intervals import max_vio_interval, uniform_floor
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.slots import tabulate
from moeprobe.statistics.statistic import Statistic, counts


class LoadStatistic(Statistic):
    """Assignments per expert, [clusters, columns] as chosen and without the selection bias, [sources, columns].

    Args:
        router: facts; its number of score columns is the width.
        sources: label of each document, in the order of the record's document indices.

    """

    added = ("chosen", "unbiased", "cluster_tokens", "by_source", "tokens", "source_tokens", "documents")

    def __init__(self, router: Router, sources: list[str]) -> None:
        columns = router.score_columns
        self._router = router
        self._names = sorted(set(sources))
        self._source = torch.tensor([self._names.index(name) for name in sources], dtype=torch.int64)
        self._cluster = assign(self._source)
        self.chosen = counts(CLUSTERS, columns)
        self.unbiased = counts(CLUSTERS, columns)
        self.cluster_tokens = counts(CLUSTERS)
        self.by_source = counts(len(self._names), columns)
        self.tokens = counts(1)
        self.source_tokens = counts(len(self._names))
        self.documents = counts(len(sources))

    def update(self, seen: Observation) -> None:
        """Count the assignments; unused slots (-1) are not counted."""
        documents, tokens, place = seen.tokens.by_document
        clusters, sources = self._cluster[documents], self._source[documents]
        self.tokens += seen.record.tokens
        self.documents.index_add_(0, documents, tokens)
        self.source_tokens.index_add_(0, sources, tokens)
        self.cluster_tokens.index_add_(0, clusters, tokens)
        shape = torch.Size((documents.numel(), self.chosen.shape[1]))
        chosen = tabulate(place, seen.record.experts.cpu(), shape, seen.slots_within(shape[1]))
        self.chosen.index_add_(0, clusters, chosen)
        self.by_source.index_add_(0, sources, chosen)
        if seen.unbiased is not None:
            self.unbiased.index_add_(0, clusters, tabulate(place, seen.unbiased.cpu(), shape, named=True))

    def value(self) -> Load | None:
        """Counts, MaxVio with its interval and its sampling floor, normalised entropy."""
        if int(self.tokens) == 0:
            return None
        # A column behind the experts counts only where something is sent to it (zero experts, not a skip).
        behind = (self.chosen.sum(dim=0) > 0).nonzero().flatten().tolist()[-1:]
        columns = max(self._router.experts, *(index + 1 for index in behind), 1)
        chosen, unchosen = self.chosen[:, :columns], self.unbiased[:, :columns]
        total = chosen.sum(dim=0)
        share = total.double() / total.sum().clamp_min(1)
        entropy = float(-(share * share.clamp_min(1e-300).log()).sum()) / math.log(max(2, share.numel()))
        documents = int((self.documents > 0).sum())
        unbiased = unchosen.sum(dim=0)
        biased = bool(unbiased.sum() > 0)
        return Load(
            counts=total.tolist(),
            by_source={n: self.by_source[i, :columns].tolist() for i, n in enumerate(self._names)},
            source_tokens={n: int(self.source_tokens[i]) for i, n in enumerate(self._names)},
            max_vio=max_vio_interval(chosen, documents),
            max_vio_floor=uniform_floor(int(self.tokens), total.numel(), self._router.top_k),
            entropy=entropy,
            unbiased_counts=unbiased.tolist() if biased else None,
            unbiased_max_vio=max_vio_interval(unchosen, documents) if biased else None,
            design_effect=design_effects(chosen, self.cluster_tokens, len(self._names)),
        )
