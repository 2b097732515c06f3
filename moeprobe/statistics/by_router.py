"""Sets of statistics, one set a router: fed, merged, kept and put back together."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from typing import Generic, Self, TypeVar

from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.statistic import Statistic


class StatisticSet:
    """The statistics of one router; every attribute is one."""

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


S = TypeVar("S", bound=StatisticSet)


class ByRouter(ABC, Generic[S]):
    """One set a router that fires; ``update`` is a sink of a recording. ``seed`` drives the noise of observations."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.routers: dict[str, S] = {}

    @abstractmethod
    def make(self, router: Router) -> S:
        """A set for this router that has seen nothing."""

    def update(self, record: Record) -> None:
        """Take in one record."""
        path = record.router.path
        if path not in self.routers:
            self.routers[path] = self.make(record.router)
        self.routers[path].update(Observation(record, self._seed))

    def like(self) -> Self:
        """One of the same probe that has seen nothing."""
        other = copy(self)
        other.routers = {}
        return other

    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` has seen."""
        for path, statistics in other.routers.items():
            if path in self.routers:
                self.routers[path].merge(statistics)
            else:
                self.routers[path] = statistics

    def state(self, routers: Collection[str] | None = None) -> dict[str, Tensor]:
        """Everything seen (of the routers at these paths), by ``<router path>/<statistic>/<tensor>``; on the CPU."""
        return {
            f"{path}/{key}": tensor
            for path, statistics in self.routers.items()
            if routers is None or path in routers
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
                self.routers[router.path] = self.make(router)
                self.routers[router.path].restore(part)
