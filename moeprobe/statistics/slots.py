"""Slots: what every statistic over the experts of a token needs."""

import torch
from torch import Tensor

from moeprobe.statistics.observation import Observation


def tabulate(row: Tensor, experts: Tensor, shape: torch.Size, named: bool = False) -> Tensor:
    """Count assignments by row, [rows, columns] int64.

    Args:
        row: [tokens] int64.
        experts: [tokens, k] int64; unused slots (-1) are not counted.
        shape: of the table.
        named: every slot is known to name one of the columns.

    """
    flat = row.unsqueeze(-1) * shape[1] + experts
    if not named:
        flat = flat[(experts >= 0) & (experts < shape[1])]
    return torch.bincount(flat.flatten(), minlength=shape[0] * shape[1]).reshape(shape)


def slot_entropies(experts: Tensor) -> Tensor:
    """[tokens] float64: number of used slots times the entropy (nats) of a slot drawn at random from them.

    For k distinct experts that is k ln k; an expert that stands there twice (as a broken hash table may say) counts
    twice.
    """
    used = experts >= 0
    same = ((experts.unsqueeze(-1) == experts.unsqueeze(-2)) & used.unsqueeze(-1)).sum(dim=-2).double()
    slots = used.sum(dim=-1, keepdim=True).double()
    logs = (slots.clamp_min(1) / same.clamp_min(1)).log()
    return torch.where(used, logs, 0.0).sum(dim=-1)


def by_preference(seen: Observation) -> Tensor:
    """[tokens, k] places of the slots, largest routing weight first, unused ones last.

    Routers do not promise an order of their slots (docs/science.md H6).
    """
    record = seen.record
    weights = seen.gate.unscaled(record.weights, record.experts).masked_fill(record.experts < 0, float("-inf"))
    return weights.argsort(dim=-1, descending=True, stable=True)
