"""Capacity: which assignments would find no place, had every expert room for a stated number of tokens.

An expert takes C = ceil(c k S / E) assignments of a group of S tokens, at capacity factor c (Switch, 2101.03961,
section 2.2, with k = 1; GShard, 2006.16668; OpenMoE, 2402.01739). First choices of the whole group come before second
choices, and within a choice earlier tokens before later ones (GShard, algorithm 1), which is why drops gather towards
the end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import Capacity, Drops
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.slots import by_preference
from moeprobe.statistics.statistic import Statistic, counts

TENTHS = 10
_DROPPING = ("SwitchTransformersTop1Router", "NllbMoeTop2Router")
"""Routers of transformers that drop tokens when they run (5.23.0)."""


class CapacityStatistic(Statistic):
    """Dropped assignments by capacity factor and tenth of the sequence, with a sequence and with a batch as group.

    ``in_sequence`` and ``in_batch`` [factors, tenths], ``assigned`` [tenths] of all slots, ``unused`` [tenths] slots
    that stayed empty when the model ran.
    """

    added = ("in_sequence", "in_batch", "assigned", "unused")

    def __init__(self, router: Router, factors: Sequence[float]) -> None:
        self._router = router
        self._factors = list(factors)
        self._drops = router.module in _DROPPING
        self.in_sequence = counts(len(self._factors), TENTHS)
        self.in_batch = counts(len(self._factors), TENTHS)
        self.assigned = counts(TENTHS)
        self.unused = counts(TENTHS)

    def update(self, seen: Observation) -> None:
        """Queue the assignments of one record; it is one batch of whole documents."""
        record = seen.record
        if not record.tokens:
            return
        experts = record.experts.gather(-1, by_preference(seen)).cpu()
        _, group, sizes = torch.unique_consecutive(record.documents.cpu(), return_inverse=True, return_counts=True)
        tenth = _places(group, sizes) * TENTHS // sizes[group]
        used = experts >= 0
        self.unused += torch.bincount(tenth, weights=(~used).sum(dim=-1).double(), minlength=TENTHS).long()
        self.assigned += torch.bincount(tenth, minlength=TENTHS) * experts.shape[1]
        if self._drops:
            return  # what was chosen before the drops is not in the record
        groupings = ((self.in_sequence, group, sizes), (self.in_batch, torch.zeros_like(group), sizes.sum().reshape(1)))
        for state, groups, tokens in groupings:
            place = queue(groups, experts)
            for row, factor in enumerate(self._factors):
                room = capacity(factor, tokens, self._router)[groups].unsqueeze(-1)
                dropped = (place >= room) & used
                state[row] += torch.bincount(tenth, weights=dropped.sum(dim=-1).double(), minlength=TENTHS).long()

    def value(self) -> Capacity | None:
        """Shares of assignments; None where nothing was seen."""
        assigned = (self.assigned - (0 if self._drops else self.unused)).double()
        if not int(assigned.sum()):
            return None
        simulated = [
            Drops(
                factor=factor,
                group=group,
                share=float(state[row].sum() / assigned.sum()),
                by_tenth=_shares(state[row], assigned),
            )
            for group, state in (("sequence", self.in_sequence), ("batch", self.in_batch))
            for row, factor in enumerate([] if self._drops else self._factors)
        ]
        return Capacity(
            assignments=int(assigned.sum()),
            simulated=simulated,
            measured=float(self.unused.sum() / assigned.sum()) if self._drops else None,
            measured_by_tenth=_shares(self.unused, assigned) if self._drops else None,
        )


def capacity(factor: float, tokens: Tensor, router: Router) -> Tensor:
    """Assignments that an expert takes of groups of ``tokens`` [groups] tokens, at least one."""
    exact = factor * router.top_k * tokens.double() / router.experts
    return (exact - 1e-9).ceil().long().clamp_min(1)


def queue(group: Tensor, experts: Tensor) -> Tensor:
    """[tokens, k] how many assignments of the same group and expert come before each one.

    Args:
        group: [tokens] int64, tokens in order.
        experts: [tokens, k] int64, preferred expert first; unused slots (-1) have a queue of their own.

    """
    rank = torch.arange(experts.shape[1]).expand_as(experts)
    order = torch.arange(experts.numel())
    for key in (rank.reshape(-1), experts.reshape(-1), group.unsqueeze(-1).expand_as(experts).reshape(-1)):
        order = order[key[order].argsort(stable=True)]
    pair = (group.unsqueeze(-1) * (int(experts.max()) + 2) + experts + 1).reshape(-1)[order]
    _, run, lengths = torch.unique_consecutive(pair, return_inverse=True, return_counts=True)
    place = torch.empty_like(order)
    place[order] = _places(run, lengths)
    return place.reshape(experts.shape)


def _places(run: Tensor, lengths: Tensor) -> Tensor:
    """Place of each element inside its run of equal elements."""
    return torch.arange(run.numel()) - (lengths.cumsum(0) - lengths)[run]


def _shares(dropped: Tensor, assigned: Tensor) -> list[float | None]:
    return [d / a if a else None for d, a in zip(dropped.tolist(), assigned.tolist(), strict=True)]
