"""The gates that score every expert and take the k best, with or without a selection bias; and the hash table."""

import torch
from torch import Tensor

from moeprobe.findings.router import Groups
from moeprobe.gates.decision import Decision, combine
from moeprobe.routers.rule import choose, scores, selection_scores


def softmax_top_k(logits: Tensor, k: int, *, renormalise: bool = True) -> Decision:
    """Softmax over all experts, in float32 whatever the logits' dtype, and its k largest entries.

    Mixtral and Qwen3-MoE renormalise them, OLMoE and Qwen2-MoE by default do not; a softmax over the chosen logits
    alone (Mixtral's paper, 2401.04088) is the renormalised one. The weights are float32; Mixtral hands them on so,
    Qwen and OLMoE in the dtype of the model.
    """
    score = logits.softmax(dim=-1, dtype=torch.float32)
    experts = choose(score, k)
    return Decision(score, experts, combine(score, experts, renormalise=renormalise, epsilon=0.0))


def grouped_sigmoid(
    logits: Tensor, bias: Tensor, k: int, *, groups: Groups | None = None, renormalise: bool = True, factor: float = 1.0
) -> Decision:
    """Sigmoid of each logit; a bias [experts] and groups for the choice only (DeepSeek-V3, 2412.19437).

    ``factor`` is ``routed_scaling_factor``. The logits are to be float32, as the router makes them.
    """
    return _biased(logits.sigmoid(), bias, k, groups, renormalise, factor)


def biased_sqrtsoftplus(logits: Tensor, bias: Tensor, k: int, *, factor: float = 1.0) -> Decision:
    """sqrt(softplus) of each logit in the logits' dtype, a bias [experts] for the choice only (DeepSeek-V4).

    The weights are always renormalised, whatever ``norm_topk_prob`` of the config says.
    """
    return _biased(scores(logits, "sqrtsoftplus"), bias, k, None, True, factor)


def hash_table(logits: Tensor, token_ids: Tensor, table: Tensor, *, factor: float = 1.0) -> Decision:
    """Experts from a table [vocabulary, k] by token id [tokens]; sqrt(softplus) scores only weight them.

    DeepSeek-V4's first layers; without the scores it is the hash layer of 2106.04426.
    """
    score = scores(logits, "sqrtsoftplus")
    experts = table[token_ids].long()
    return Decision(score, experts, combine(score, experts, renormalise=True, factor=factor))


def _biased(score: Tensor, bias: Tensor, k: int, groups: Groups | None, renormalise: bool, factor: float) -> Decision:
    experts = choose(selection_scores(score, bias, groups), k)
    return Decision(score, experts, combine(score, experts, renormalise=renormalise, factor=factor))
