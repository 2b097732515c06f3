"""The gates with a capacity: an expert takes its first tokens, the others are dropped."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from moeprobe.gates.decision import Decision


def switch_top1(logits: Tensor, capacity: int) -> Decision:
    """The most probable expert alone, weighted by its probability (Switch, 2101.03961).

    Args:
        logits: [tokens, experts] of one sequence, in its order; the probability is computed in their dtype.
        capacity: tokens of the sequence that an expert takes.

    """
    score = logits.softmax(dim=-1)
    best = score.max(dim=-1)
    mask = one_hot(best.indices, logits.shape[-1])
    kept = _first(mask, capacity).any(dim=-1)
    return _decision(score, best.indices.unsqueeze(-1), best.values.unsqueeze(-1), kept.unsqueeze(-1))


def gshard_top2(
    logits: Tensor,
    capacity: int,
    *,
    normalise_before_dropping: bool = True,
    uniform: Tensor | None = None,
) -> Decision:
    """The two most probable experts, first choices before second ones (GShard, 2006.16668, algorithm 1).

    Args:
        logits: [tokens, experts] of one group of tokens; the probability is computed in their dtype.
        capacity: tokens of the group that an expert takes, first and second choices together.
        normalise_before_dropping: divide by the sum of both probabilities (GShard), or only by those that were kept
            (NLLB's default, ``normalize_router_prob_before_dropping`` False).
        uniform: [tokens] random numbers in [0, 1): the second expert is used with twice its weight as
            probability, as GShard does; None uses it always (NLLB's ``second_expert_policy`` "all").

    """
    score = logits.softmax(dim=-1)
    first = score.argmax(dim=-1)
    taken = one_hot(first, logits.shape[-1])
    second = logits.masked_fill(taken.bool(), float("-inf")).argmax(dim=-1)
    wanted = one_hot(second, logits.shape[-1])
    experts = torch.stack([first, second], dim=-1)
    weights = score.gather(-1, experts)
    if normalise_before_dropping:
        weights = weights / _least(weights)
    if uniform is not None:
        wanted = wanted * (2 * weights[:, 1] > uniform).unsqueeze(-1)
    kept = torch.stack(
        [_first(taken, capacity).any(dim=-1), _first(wanted, capacity, taken.sum(dim=0)).any(dim=-1)], dim=-1
    )
    if not normalise_before_dropping:
        weights = weights * kept
        weights = weights / _least(weights)
    return _decision(score, experts, weights, kept)


def _first(mask: Tensor, capacity: int, before: Tensor | int = 0) -> Tensor:
    """The entries of a 0/1 table [tokens, experts] that are among the first ``capacity`` of their column."""
    return (mask > 0) & (mask.cumsum(dim=0) + before <= capacity)


def _least(weights: Tensor) -> Tensor:
    return weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).eps)


def _decision(score: Tensor, experts: Tensor, weights: Tensor, kept: Tensor) -> Decision:
    return Decision(score, experts.masked_fill(~kept, -1), weights.masked_fill(~kept, 0))
