"""Gradient: a router-only backward pass on recorded inputs, where a score has underflowed to zero.

The derivative of sqrt(softplus) divides by its result. An unselected expert has a zero gradient from above, and
0 * inf is NaN: the forward pass stays finite while one training step destroys the gate (docs/science.md B0).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from moeprobe.findings.evidence import Backward
from moeprobe.findings.router import Arithmetic
from moeprobe.records.record import Record
from moeprobe.routers.rule import scores

_EPSILON = 1e-20
"""What routers add to the sum of the chosen scores."""


class GradientTest:
    """Tries the backward pass of every router; give ``update`` every record (with its inputs)."""

    def __init__(self) -> None:
        self.found: dict[str, Backward] = {}
        """By router path. Without an entry the router could not be tried; with 0 tokens nothing had to be."""

    def update(self, record: Record) -> None:
        """Try the backward pass on the rows of this record where a score is exactly zero."""
        router = record.router
        if record.inputs is None or record.logits is None or router.score_function is None:
            return
        if router.path not in self.found:
            self.found[router.path] = Backward()
        dtype = _dtype(router.arithmetic, "score")
        rows = None
        if not _all_above_zero(record.logits, dtype):
            zero = scores(record.logits.to(dtype), router.score_function) == 0
            rows = zero.any(dim=-1) & torch.isfinite(record.logits).all(dim=-1)
        if rows is not None and bool(rows.any()):
            gate, inputs = router_backward(record.select(rows))
            broken = ~torch.isfinite(gate)
            seen = self.found[router.path]
            experts = {*seen.experts, *broken.any(dim=-1).nonzero().flatten().tolist()}
            self.found[router.path] = Backward(
                tokens=seen.tokens + int(rows.sum()),
                nonfinite=seen.nonfinite + int(broken.sum()) + int((~torch.isfinite(inputs)).sum()),
                experts=sorted(experts),
            )

    def merge(self, found: Mapping[str, Backward]) -> None:
        """Take in what another test has found on other tokens."""
        for path, theirs in found.items():
            mine = self.found.get(path, Backward())
            self.found[path] = Backward(
                tokens=mine.tokens + theirs.tokens,
                nonfinite=mine.nonfinite + theirs.nonfinite,
                experts=sorted({*mine.experts, *theirs.experts}),
            )


def router_backward(record: Record) -> tuple[Tensor, Tensor]:
    """Gradients of the gate [columns, hidden] and of the router's input [tokens, hidden], in the run dtypes.

    From above comes a different gradient for every slot: that of an equal sum of renormalised weights would be
    zero everywhere. The gradient of the input is empty where the gate's matrix is not known.
    """
    router, gate = record.router, record.gate
    assert record.inputs is not None
    assert record.logits is not None
    assert router.score_function is not None
    product = _dtype(router.arithmetic, "product")
    with torch.enable_grad(), torch.inference_mode(False):
        logits = record.logits.clone().to(_dtype(router.arithmetic, "score")).requires_grad_()
        chosen = scores(logits, router.score_function).gather(-1, record.experts.clamp_min(0))
        if router.renormalised:
            chosen = chosen / (chosen.sum(dim=-1, keepdim=True) + _EPSILON)
        slope = torch.linspace(0.5, 1.5, chosen.shape[-1], dtype=chosen.dtype, device=chosen.device)
        (above,) = torch.autograd.grad((chosen * slope).sum(), logits)
    above = above.to(product)
    inputs = above[:, :0] if gate.weight is None else above @ gate.weight.detach().to(above)
    return above.mT @ record.inputs.to(above), inputs


def _all_above_zero(logits: Tensor, dtype: torch.dtype) -> bool:
    """Whether the extremes of the logits already show that no score is zero; False where they do not.

    Of n columns no softmax is below exp(lowest - highest) / n, and no sigmoid and no softplus below
    exp(lowest) / 2 where the lowest is negative.
    """
    if not logits.numel():
        return True
    low, high = torch.stack(torch.aminmax(logits)).tolist()
    edge = math.log(torch.finfo(dtype).tiny) + math.log(logits.shape[-1]) + 1
    # False as well where either is NaN or infinite.
    return bool(min(low, 0.0) - max(high, 0.0) > edge)


def _dtype(arithmetic: Arithmetic | None, part: Literal["product", "score"]) -> torch.dtype:
    """The dtype in which this part of the router was seen to run."""
    found: torch.dtype = getattr(torch, getattr(arithmetic, part, None) or "float32")
    return found
