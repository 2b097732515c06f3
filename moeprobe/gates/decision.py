"""Decision: what every gate returns, and the routing weights of chosen experts."""

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-20
"""Added to the sum of the chosen scores by DeepSeek-V3 and V4; it is 0 in float16 (docs/science.md B0)."""


@dataclass(frozen=True, eq=False)
class Decision:
    """The choice of a gate.

    Attributes:
        scores: [tokens, experts] what the weights are made of, without bias.
        experts: [tokens, k] int64, -1 in a slot that was dropped.
        weights: [tokens, k] routing weights, 0 in dropped slots.

    """

    scores: Tensor
    experts: Tensor
    weights: Tensor

    def dense(self) -> Tensor:
        """Weights as a table [tokens, experts], 0 where an expert was not chosen."""
        table = torch.zeros_like(self.scores, dtype=self.weights.dtype)
        return table.scatter_add_(1, self.experts.clamp_min(0), self.weights)


def combine(
    scores: Tensor, experts: Tensor, *, renormalise: bool, factor: float = 1.0, epsilon: float = EPSILON
) -> Tensor:
    """Routing weights [tokens, k] of ``experts`` [tokens, k] from ``scores`` [tokens, experts].

    w_i = factor * s_i / (sum of the chosen s + epsilon), or factor * s_i without the norm. ``scores`` must be the
    unbiased ones: a selection bias only chooses.
    """
    weights = scores.gather(-1, experts)
    if renormalise:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return weights * factor
