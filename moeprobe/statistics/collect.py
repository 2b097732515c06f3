"""Collector: all statistics of all routers, fed record by record."""

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor

from moeprobe.findings.evidence import Activations
from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.statistics.balance_law import BalanceLawStatistic
from moeprobe.statistics.contract import ContractStatistic
from moeprobe.statistics.hash_use import HashStatistic
from moeprobe.statistics.load import LoadStatistic
from moeprobe.statistics.logits import LogitStatistic
from moeprobe.statistics.magnitudes import MagnitudeStatistic
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.selection import SelectionStatistic
from moeprobe.statistics.statistic import Statistic
from moeprobe.statistics.token_ids import TokenIdStatistic
from moeprobe.statistics.weights import WeightStatistic


class RouterStatistics:
    """The statistics of one router.

    Args:
        router: facts about the router.
        sources: label of each document of the probe.
        ids: the probe's token ids, most frequent first.

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

    @property
    def all(self) -> list[Statistic]:
        """Every statistic of the router."""
        return list(vars(self).values())

    def update(self, seen: Observation) -> None:
        """Feed every statistic."""
        for statistic in self.all:
            statistic.update(seen)

    def merge(self, other: Self) -> None:
        """Merge every statistic."""
        for mine, theirs in zip(self.all, other.all, strict=True):
            mine.merge(theirs)

    def state(self) -> dict[str, Tensor]:
        """Everything seen, by ``<statistic>/<tensor>``; on the CPU."""
        return {
            f"{name}/{part}": tensor
            for name, statistic in vars(self).items()
            for part, tensor in statistic.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state()`` gave.

        Raises:
            ValueError: it is the state of another router, or of other statistics.

        """
        for name, statistic in vars(self).items():
            start = f"{name}/"
            statistic.restore({key.removeprefix(start): tensor for key, tensor in state.items()})

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


class Collector:
    """Statistics of every router that fires; give ``collector.update`` to a recording as its sink.

    Args:
        sources: label of each document, by document index.
        token_ids: [tokens] all counted token ids of the probe.
        seed: drives the noise and the shuffles.

    """

    def __init__(self, sources: list[str], token_ids: Tensor, seed: int = 0) -> None:
        self._sources = sources
        values, counted = torch.unique(token_ids, return_counts=True)
        self._ids = values[counted.argsort(descending=True, stable=True)]
        self._seed = seed
        self.routers: dict[str, RouterStatistics] = {}

    def update(self, record: Record) -> None:
        """Take in one record."""
        path = record.router.path
        if path not in self.routers:
            self.routers[path] = RouterStatistics(record.router, self._sources, self._ids)
        self.routers[path].update(Observation(record, self._seed))

    def like(self) -> Self:
        """A collector of the same probe that has seen nothing."""
        other = type(self)([], self._ids, self._seed)
        other._sources, other._ids = self._sources, self._ids
        return other

    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` has seen."""
        for path, statistics in other.routers.items():
            if path in self.routers:
                self.routers[path].merge(statistics)
            else:
                self.routers[path] = statistics

    def state(self) -> dict[str, Tensor]:
        """Everything seen, by ``<router path>/<statistic>/<tensor>``; on the CPU."""
        return {
            f"{path}/{key}": tensor
            for path, statistics in self.routers.items()
            for key, tensor in statistics.state().items()
        }

    def restore(self, routers: Iterable[Router], state: Mapping[str, Tensor]) -> None:
        """Put back what ``state()`` gave for these routers; one that is not in it has seen nothing.

        Raises:
            ValueError: it is the state of another probe, of another router, or of other statistics.

        """
        for router in routers:
            start = f"{router.path}/"
            part = {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}
            if part:
                self.routers[router.path] = RouterStatistics(router, self._sources, self._ids)
                self.routers[router.path].restore(part)

    def activations(self, path: str) -> Activations | None:
        """What was seen at the router at ``path``; None where it saw nothing."""
        found = self.routers.get(path)
        return None if found is None else found.activations(self._ids.numel())
