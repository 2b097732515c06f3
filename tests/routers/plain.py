"""Routers and blocks that are not of transformers: the tutorial's, remote code's, and those of the first papers.

Every block keeps what its experts execute in ``ran``: (row, expert, weight) of each call, noted where it happens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeprobe.findings.router import ScoreFunction
from moeprobe.gates.capacity import gshard_top2, switch_top1
from moeprobe.gates.decision import combine
from moeprobe.gates.noisy import noisy_top_k
from moeprobe.routers.rule import choose, scores

HIDDEN, EXPERTS = 16, 8


class ReferenceGate(nn.Module):
    """DeepSeek's inference gate: ``forward(x, input_ids) -> (weights, indices)``, by a table or by scores."""

    def __init__(self, function: ScoreFunction = "sqrtsoftplus", vocabulary: int = 0, top_k: int = 3) -> None:
        super().__init__()
        self.function, self.top_k = function, top_k
        self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN))
        if vocabulary:
            table = torch.rand(vocabulary, EXPERTS).argsort(dim=-1)[:, :top_k]
            self.register_buffer("tid2eid", table)
        else:
            self.bias = nn.Parameter(torch.randn(EXPERTS) * 0.1)

    def forward(self, x: Tensor, input_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        score = scores(F.linear(x.float(), self.weight.float()), self.function)
        hashed = hasattr(self, "tid2eid")
        indices = self.tid2eid[input_ids] if hashed else choose(score + self.bias, self.top_k)
        return combine(score, indices, renormalise=self.function != "softmax", factor=1.5, epsilon=0.0), indices


class RemoteGate(nn.Module):
    """Code that comes with a checkpoint: ``(topk_idx, topk_weight, aux_loss)``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        scores = F.linear(hidden.reshape(-1, HIDDEN), self.weight).softmax(dim=-1)
        weight, index = scores.topk(2, dim=-1, sorted=False)
        return index, weight, None


@dataclass
class Choice:
    """What a gate may return instead of a tuple."""

    router_logits: Tensor
    weights: Tensor
    experts: Tensor

    def __getitem__(self, place: int) -> Tensor:
        return (self.experts, self.weights)[place]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.experts, self.weights))


class ObjectGate(RemoteGate):
    """A gate that returns a dataclass."""

    def forward(self, hidden: Tensor) -> Choice:
        logits = F.linear(hidden.reshape(-1, HIDDEN), self.weight)
        weight, index = logits.softmax(dim=-1).topk(2, dim=-1)
        return Choice(logits, weight, index)


class NoisyTopKGate(nn.Module):
    """Noisy top-k gating (1701.06538): sparse gates [rows, experts] and the load of each expert."""

    def __init__(self) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.randn(HIDDEN, EXPERTS))
        self.w_noise = nn.Parameter(torch.randn(HIDDEN, EXPERTS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(x.shape[0], EXPERTS, generator=torch.Generator().manual_seed(0))
        gates = noisy_top_k(x @ self.w_gate, x @ self.w_noise, noise, 2).dense()
        return gates, (gates > 0).sum(0).float()


class GShardGate(nn.Module):
    """GShard's top-2 gate, or Switch's top-1: loss, combine weights and dispatch mask [rows, experts, capacity]."""

    def __init__(self, top_k: int = 2, capacity: int = 6) -> None:
        super().__init__()
        self.top_k, self.capacity = top_k, capacity
        self.wg = nn.Linear(HIDDEN, EXPERTS, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate = switch_top1 if self.top_k == 1 else gshard_top2
        decision = gate(self.wg(x), self.capacity)
        taken = torch.zeros(EXPERTS, dtype=torch.int64)
        combined = torch.zeros(x.shape[0], EXPERTS, self.capacity)
        for slot in range(self.top_k):
            for row, expert in enumerate(decision.experts[:, slot].tolist()):
                if expert >= 0:
                    combined[row, expert, taken[expert]] = decision.weights[row, slot]
                    taken[expert] += 1
        loss = (decision.scores.mean(0) * taken / taken.sum()).sum() * EXPERTS
        return loss, combined, combined.bool()


class Expert(nn.Module):
    """A small feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x).relu()


class Block(nn.Module):
    """A routed block: ``decide(gate, x)`` gives dense weights [rows, experts]; an expert sees its rows only."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        self.ran = torch.zeros(0)
        self.shift = 0

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, HIDDEN)
        weights = dense(self.gate(flat))
        self.ran = weights.detach()
        out = torch.zeros_like(flat)
        for expert in range(EXPERTS):
            rows = (weights[:, expert] != 0).nonzero().flatten()
            if len(rows):
                done = self.experts[(expert + self.shift) % EXPERTS](flat[rows])
                out[rows] += done * weights[rows, expert, None]
        return out.reshape(x.shape)


def dense(output: tuple[Tensor, ...]) -> Tensor:
    """Weights [rows, experts] from the output of any gate of this file."""
    shapes = [part.shape if isinstance(part, Tensor) else () for part in output]
    if len(shapes[1]) == 3:
        return output[1].sum(dim=-1)
    if shapes[0][-1] == EXPERTS:
        return output[0]
    index, weight = (output[0], output[1]) if not output[0].is_floating_point() else (output[1], output[0])
    return torch.zeros(index.shape[0], EXPERTS).scatter(1, index, weight)


class Padded(nn.Module):
    """A GShard block as it is usually written: every expert runs on its full capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = GShardGate()
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        _, combine, dispatch = self.gate(x)
        given = torch.einsum("sec,sm->ecm", dispatch.float(), x)
        done = torch.stack([expert(rows) for expert, rows in zip(self.experts, given, strict=True)])
        return torch.einsum("sec,ecm->sm", combine, done)
