"""Placement: experts on devices, in their order and packed by load; how even that is, and how far tokens travel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import Placement, Placements
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.slots import tabulate
from moeprobe.statistics.statistic import Statistic, counts

SAMPLE = 8_192
"""Tokens whose sets of experts are kept, at even steps through the probe."""


class PlacementStatistic(Statistic):
    """Load of each half of the documents, [2, columns], and the sets of some tokens, [sample, k] expert + 1.

    The tokens of the sample are fixed beforehand, each with a row of its own, so that states add up.

    Args:
        router: facts.
        half: [documents] 0 or 1.
        lengths: [documents] counted tokens.
        devices: numbers of devices to plan for; those that do not divide the experts are left out.

    """

    added = ("load", "sets")

    def __init__(self, router: Router, half: Tensor, lengths: Tensor, devices: Sequence[int]) -> None:
        self._experts = router.experts
        self._half = half
        self._start = lengths.cumsum(0) - lengths
        self._step = max(1, -(-int(lengths.sum()) // SAMPLE))
        self._devices = [n for n in devices if n <= router.experts and router.experts % n == 0]
        self.load = counts(2, router.score_columns)
        self.sets = counts(min(SAMPLE, max(int(lengths.sum()), 1)), router.top_k)

    def update(self, seen: Observation) -> None:
        """Count one record; it holds whole documents."""
        documents, experts = seen.record.documents.cpu(), seen.record.experts.cpu()
        if not documents.numel():
            return
        self.load += tabulate(self._half[documents], experts, self.load.shape)
        _, run, sizes = torch.unique_consecutive(documents, return_inverse=True, return_counts=True)
        ordinal = self._start[documents] + torch.arange(run.numel()) - (sizes.cumsum(0) - sizes)[run]
        kept = ordinal % self._step == 0
        row = ordinal[kept] // self._step
        inside = row < self.sets.shape[0]
        self.sets[row[inside]] += experts[kept][inside] + 1

    def value(self) -> Placements | None:
        """One plan for each number of devices; None where one half of the documents saw nothing."""
        planned, tried = self.load[:, : self._experts].double()
        if not bool(planned.sum()) or not bool(tried.sum()):
            return None
        sets = self.sets[(self.sets > 0).any(dim=-1)] - 1
        found = []
        for devices in self._devices:
            order = torch.arange(self._experts) // (self._experts // devices)
            packing = pack(planned, devices)
            found.append(
                Placement(
                    devices=devices,
                    contiguous=imbalance(tried, order, devices),
                    packed=imbalance(tried, packing, devices),
                    contiguous_sent=sent(sets, order, devices),
                    packed_sent=sent(sets, packing, devices),
                    packing=pack(planned + tried, devices).tolist(),
                )
            )
        return Placements(plans=found)


def pack(load: Tensor, devices: int) -> Tensor:
    """Device of each expert, [experts], equally many on each device.

    ``balanced_packing`` of DeepSeek's expert parallelism load balancer (github.com/deepseek-ai/EPLB, eplb.py): heaviest
    first, each to the lightest device that has room. It is Graham's longest-processing-time rule (SIAM J. Appl. Math.,
    1969) with a limit on the number of jobs. Copies of busy experts, which EPLB also makes, are not planned.
    """
    room = [load.numel() // devices] * devices
    weight = [0.0] * devices
    device = torch.zeros(load.numel(), dtype=torch.int64)
    values = load.tolist()
    for expert in load.argsort(descending=True, stable=True).tolist():
        lightest = min((d for d in range(devices) if room[d]), key=lambda d: weight[d])
        device[expert] = lightest
        weight[lightest] += values[expert]
        room[lightest] -= 1
    return device


def imbalance(load: Tensor, device: Tensor, devices: int) -> float:
    """Load of the fullest device over the mean."""
    total = torch.zeros(devices, dtype=torch.float64).index_add_(0, device, load.double())
    return float(total.max() / total.mean())


def sent(sets: Tensor, device: Tensor, devices: int) -> float:
    """Mean number of devices that hold an expert of a token; a token is sent to each of them once.

    Args:
        sets: [tokens, k] experts, -1 in unused slots.
        device: [experts] device of each.
        devices: how many there are.

    """
    used = (sets >= 0) & (sets < device.numel())
    where = torch.where(used, device[sets.clamp(0, device.numel() - 1)], devices)
    reached = torch.zeros(sets.shape[0], devices + 1, dtype=torch.bool).scatter_(1, where, True)
    return float(reached[:, :devices].sum(dim=-1).double().mean())
