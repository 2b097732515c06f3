"""Statistic: the base of everything that is counted. Merged = streamed = computed at once."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from moeprobe.findings.plain import Plain
from moeprobe.statistics.observation import Observation


class State:
    """A fixed-size state over tokens.

    The state lives in tensors named in ``added`` (int64 counts and float64 sums: they merge by addition),
    ``least`` and ``most`` (they merge by minimum and maximum). Nothing else may change in an update, so every
    subclass merges, moves and compares by the code below.
    """

    added: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[tuple[str, ...]] = ()
    most: ClassVar[tuple[str, ...]] = ()

    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` has seen."""
        for name in self.added:
            setattr(self, name, getattr(self, name) + getattr(other, name).to(getattr(self, name).device))
        for name in self.least:
            setattr(self, name, lexicographic(getattr(self, name), getattr(other, name), least=True))
        for name in self.most:
            setattr(self, name, lexicographic(getattr(self, name), getattr(other, name), least=False))

    def state(self) -> dict[str, Tensor]:
        """The whole state, on the CPU."""
        return {name: getattr(self, name).cpu() for name in self._parts()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state()`` gave, bit for bit, instead of what was seen so far.

        Raises:
            ValueError: it is the state of something else: a tensor is missing, or has another shape or dtype.

        """
        for name in self._parts():
            mine, other = getattr(self, name), state.get(name)
            if other is None or other.shape != mine.shape or other.dtype != mine.dtype:
                raise ValueError(f"no state of {type(self).__name__}: {name}")
            setattr(self, name, other.clone())

    def _parts(self) -> tuple[str, ...]:
        return (*self.added, *self.least, *self.most)


class Statistic(State, ABC):
    """A state that is fed the records of one model."""

    @abstractmethod
    def update(self, seen: Observation) -> None:
        """Take in the tokens of one record."""

    @abstractmethod
    def value(self) -> Plain | None:
        """The statistic as plain numbers; None where nothing was seen or it does not apply."""


def lexicographic(first: Tensor, second: Tensor, least: bool) -> Tensor:
    """The smaller (or larger) of two rows, by their first column, ties by the next: order of merging is free."""
    second = second.to(first.device)
    ordered = first.tolist() <= second.tolist()
    return first if ordered == least else second


def counts(*shape: int) -> Tensor:
    """A state of int64 zeros."""
    return torch.zeros(*shape, dtype=torch.int64)


def sums(*shape: int) -> Tensor:
    """A state of float64 zeros."""
    return torch.zeros(*shape, dtype=torch.float64)
