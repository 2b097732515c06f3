"""Noisy top-k, the gate of 2017: the noise explores, the softmax sees the chosen logits alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.gates.decision import Decision


def noisy_top_k(logits: Tensor, spread: Tensor | None, noise: Tensor | None, k: int) -> Decision:
    """H = logits + noise * softplus(spread); softmax over the k largest H (1701.06538, equations 3 to 5).

    Without ``spread`` and ``noise`` this is the gate at inference. transformers has no router of this kind.

    Args:
        logits: [tokens, experts] x W_g.
        spread: [tokens, experts] x W_noise.
        noise: [tokens, experts] standard normal numbers.
        k: experts a token.

    """
    noisy = logits if spread is None or noise is None else logits + noise * F.softplus(spread)
    best = noisy.topk(k, dim=-1)
    weights = best.values.softmax(dim=-1)
    scores = torch.zeros_like(noisy).scatter(-1, best.indices, weights)
    return Decision(scores, best.indices, weights)
