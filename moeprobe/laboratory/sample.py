"""Sample: a bounded, seeded sample of the rows that each router saw."""

import torch
from torch import Tensor

from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.observation import Observation

_PURPOSE = 7
"""Keeps these random numbers apart from those of the statistics."""


class RouterSample:
    """At most ``most`` rows of one router: every row draws a random number, and the smallest ones stay.

    Attributes:
        gate: the live tensors of the router.
        tokens: rows seen, those with a non-finite logit or an unused slot (which are left out) included.
        logits: [rows, columns] float32, recomputed from the router's input where possible, else as recorded.
        experts: [rows, k] int64 as the model chose them.
        recomputed: whether the logits were recomputed.

    """

    def __init__(self, gate: Gate, most: int) -> None:
        self.gate = gate
        self.tokens = 0
        self.recomputed = False
        self.logits = torch.zeros(0, gate.router.score_columns)
        self.experts = torch.zeros(0, gate.router.top_k, dtype=torch.int64)
        self._most = most
        self._drawn = torch.zeros(0, dtype=torch.float64)

    def update(self, seen: Observation) -> None:
        """Take in one record."""
        self.tokens += seen.record.tokens
        if seen.logits is None:
            return
        self.recomputed = seen.recomputed
        drawn = torch.rand(seen.record.tokens, generator=seen.generator(_PURPOSE), dtype=torch.float64)
        logits, experts = seen.logits.float().cpu(), seen.record.experts.cpu()
        keep = torch.isfinite(logits).all(dim=-1) & (experts >= 0).all(dim=-1)
        self._drawn = torch.cat([self._drawn, drawn[keep]])
        lowest = self._drawn.argsort()[: self._most]
        self.logits = torch.cat([self.logits, logits[keep]])[lowest]
        self.experts = torch.cat([self.experts, experts[keep]])[lowest]
        self._drawn = self._drawn[lowest]

    def halves(self) -> tuple[Tensor, Tensor]:
        """Two halves of the logits, random and apart."""
        # The rows stand in the order of random numbers.
        middle = self.logits.shape[0] // 2
        return self.logits[:middle], self.logits[middle:]


class Samples:
    """The samples of all routers; give ``samples.update`` to a recording as a sink.

    Args:
        most: rows of a router that are kept, of ``columns`` float32 logits each.
        seed: drives the draw.

    """

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._seed = seed
        self.routers: dict[str, RouterSample] = {}

    def update(self, record: Record) -> None:
        """Take in one record."""
        path = record.router.path
        if path not in self.routers:
            self.routers[path] = RouterSample(record.gate, self._most)
        self.routers[path].update(Observation(record, self._seed))
