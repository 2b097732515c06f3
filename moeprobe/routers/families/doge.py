"""Doge: product keys. There is no router module: the block looks its experts up in two embeddings.

The gate gives two rows of ``keys`` logits a token; expert (i, j) has the sum of key i of the first and key j of the
second row. The choice is made inside the forward pass of the block, so it is made again here by the same steps;
the indices that ``down_embed`` receives are what was executed.
"""

from typing import Any

from torch import Tensor

from moeprobe.routers.readers import register_router
from moeprobe.routers.routing import Routing


def read(block: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> Routing:
    """The steps of ``DogeCDMoE.forward`` from its logits [2, rows, keys] to indices and weights."""
    keys: Tensor = output[1].detach()
    (scores_x, scores_y), (first, second) = keys.topk(block.num_keys, dim=-1)
    pairs = (scores_x.unsqueeze(-1) + scores_y.unsqueeze(-2)).flatten(-2)
    experts = (first.unsqueeze(-1) * block.num_keys + second.unsqueeze(-2)).flatten(-2)
    scores, place = pairs.topk(block.top_k, dim=-1)
    weights = scores.softmax(dim=-1)
    if block.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    logits = (keys[0].unsqueeze(-1) + keys[1].unsqueeze(-2)).flatten(-2)
    return Routing(experts.gather(-1, place), weights, logits)


register_router("DogeCDMoE", read, experts=".down_embed", logits="sums of two keys")
