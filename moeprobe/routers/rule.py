"""The routing rule as functions: score function, selection, weights. Used to fit, to recompute and to explain.

All shapes are [tokens, columns] unless said otherwise. Sources: softmax and top-k (1701.06538), sigmoid scores,
selection bias and group limits (DeepSeek-V3, 2412.19437), sqrt(softplus) (DeepSeek-V4).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.findings.router import Groups, ScoreFunction

SCORE_FUNCTIONS: tuple[ScoreFunction, ...] = ("softmax", "sigmoid", "sqrtsoftplus")


def scores(logits: Tensor, function: ScoreFunction) -> Tensor:
    """Scores phi(logits) in the dtype of ``logits``."""
    if function == "softmax":
        return logits.softmax(dim=-1)
    if function == "sigmoid":
        return logits.sigmoid()
    return F.softplus(logits).sqrt()


def selection_scores(score: Tensor, bias: Tensor | None, groups: Groups | None) -> Tensor:
    """What the top-k looks at: scores plus selection bias, groups that are left out filled.

    The sum takes torch's type promotion, as the routers do: bfloat16 scores plus a float32 bias are float32.
    """
    choice = score if bias is None else score + bias
    if groups is None:
        return choice
    group_score = group_scores(choice, groups)
    kept = group_score.topk(groups.kept, dim=-1).indices
    mask = torch.zeros_like(group_score, dtype=torch.bool).scatter_(-1, kept, True)
    fill = float("-inf") if groups.fill == "-inf" else 0.0
    members = choice.reshape(*choice.shape[:-1], groups.count, -1)
    return members.masked_fill(~mask.unsqueeze(-1), fill).flatten(-2)


def group_scores(choice: Tensor, groups: Groups) -> Tensor:
    """What ranks the groups, [tokens, groups], from scores with their bias [tokens, columns]."""
    members = choice.reshape(*choice.shape[:-1], groups.count, -1)
    if groups.score == "max":
        return members.amax(dim=-1)
    return members.topk(min(2, members.shape[-1]), dim=-1).values.sum(dim=-1)


def choose(selection: Tensor, k: int) -> Tensor:
    """Indices [tokens, k] of the chosen experts, best first."""
    return selection.topk(k, dim=-1).indices


def same_set(first: Tensor, second: Tensor) -> Tensor:
    """For each row of two [tokens, k] index tensors, whether they hold the same experts: [tokens] bool."""
    return (first.sort(dim=-1).values == second.sort(dim=-1).values).all(dim=-1)
