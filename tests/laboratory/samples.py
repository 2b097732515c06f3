"""A router sample made of given logits."""

import torch
from torch import Tensor

from moeprobe.findings.router import Bias, Groups, Router, ScoreFunction
from moeprobe.laboratory.sample import RouterSample
from moeprobe.routers.gate import Gate


def sample(
    logits: Tensor,
    k: int = 2,
    function: ScoreFunction = "sigmoid",
    bias: Tensor | None = None,
    groups: Groups | None = None,
) -> RouterSample:
    """Rows as the recorder would have kept them, the experts chosen without the bias."""
    held = None if bias is None else Bias(name="b", dtype="float32", stored_dtype=None, values=bias.tolist())
    router = Router(
        path="layer.gate", layer=3, kind="top-k", module="Gate", experts=logits.shape[1], score_columns=logits.shape[1],
        top_k=k, hidden_size=8, score_function=function, renormalised=True, groups=groups, origin="found",
        selection_bias=held,
    )  # fmt: skip
    made = RouterSample(Gate(router, selection_bias=bias), most=logits.shape[0])
    made.tokens = logits.shape[0]
    made.logits, made.experts = logits.float(), logits.topk(k, dim=-1).indices
    return made


def skewed(rows: int = 4000, experts: int = 16, seed: int = 0) -> Tensor:
    """Normal logits whose means and spreads differ by expert: uneven load without a bias."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.6 * torch.randn(experts, generator=generator)
    spreads = 0.5 + torch.rand(experts, generator=generator)
    return means + spreads * torch.randn(rows, experts, generator=generator)
