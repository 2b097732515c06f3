"""Collector: all statistics of all routers, fed record by record."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import Activations
from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.statistics.balance_law import BalanceLawStatistic
from moeprobe.statistics.by_router import ByRouter, StatisticSet
from moeprobe.statistics.contract import ContractStatistic
from moeprobe.statistics.hash_use import HashStatistic
from moeprobe.statistics.load import LoadStatistic
from moeprobe.statistics.logits import LogitStatistic
from moeprobe.statistics.magnitudes import MagnitudeStatistic
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.selection import SelectionStatistic
from moeprobe.statistics.token_ids import TokenIdStatistic, frequent
from moeprobe.statistics.tokens import Tokens
from moeprobe.statistics.weights import WeightStatistic


class RouterStatistics(StatisticSet):
    """The statistics of one router.

    Args:
        router: facts about the router.
        sources: label of each document of the probe.
        ids: the token ids to follow, ascending.

    """

    def __init__(self, router: Router, sources: list[str], ids: Tensor) -> None:
        self.load = LoadStatistic(router, sources)
        self.logits = LogitStatistic(router)
        self.selection = SelectionStatistic(router)
        self.weights = WeightStatistic(router)
        self.magnitudes = MagnitudeStatistic(router)
        self.balance_law = BalanceLawStatistic(router)
        self.token_ids = TokenIdStatistic(router, ids)
        self.hash_use = HashStatistic(router)
        self.contract = ContractStatistic(router)

    def activations(self, distinct_ids: int) -> Activations | None:
        """What the probe showed at this router; None where it saw no token."""
        load = self.load.value()
        if load is None:
            return None
        return Activations(
            tokens=int(self.load.tokens),
            documents=int((self.load.documents > 0).sum()),
            distinct_ids=distinct_ids,
            load=load,
            logits=self.logits.value(),
            selection=self.selection.value(),
            weights=self.weights.value(),
            magnitudes=self.magnitudes.value(),
            balance_law=self.balance_law.value(),
            token_ids=self.token_ids.value(),
            hash_use=self.hash_use.value(),
            contract=self.contract.value(),
        )


class Collector(ByRouter[RouterStatistics]):
    """Statistics of every router that fires; give ``collector.update`` to a recording as its sink.

    Args:
        sources: label of each document, by document index.
        token_ids: [tokens] all counted token ids of the probe.
        seed: drives the noise and the shuffles.

    """

    def __init__(self, sources: list[str], token_ids: Tensor, seed: int = 0) -> None:
        super().__init__(seed)
        self._sources = sources
        values, counted = torch.unique(token_ids, return_counts=True)
        self._ids = frequent(values[counted.argsort(descending=True, stable=True)])
        self._distinct = values.numel()

    def make(self, router: Router) -> RouterStatistics:
        """The statistics of a router that has seen nothing."""
        return RouterStatistics(router, self._sources, self._ids)

    def see(self, record: Record, tokens: Tokens) -> Observation:
        """What is kept of a record, with all that takes its input already worked out."""
        return Observation(record, self._seed, tokens).settle()

    def activations(self, path: str) -> Activations | None:
        """What was seen at the router at ``path``; None where it saw nothing."""
        found = self.routers.get(path)
        return None if found is None else found.activations(self._distinct)
