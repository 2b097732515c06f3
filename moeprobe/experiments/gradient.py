"""Gradient: a router-only backward pass on recorded inputs, where a score has underflowed to zero.

The derivative of sqrt(softplus) divides by its result. An unselected expert has a zero gradient from above, and
0 * inf is NaN: the forward pass stays finite while one training step destroys the gate (SCIENCE B0).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.records.record import Record
from moeprobe.routers.rule import scores


class GradientTest:
    """Counts non-finite gradient entries per router; give ``update`` every record (with its inputs)."""

    def __init__(self) -> None:
        self.nonfinite: dict[str, int] = {}
        """Router path -> non-finite entries in the gradients of gate and input; only routers that were tried."""

    def update(self, record: Record) -> None:
        """Try the backward pass on the rows of this record where a score is exactly zero."""
        router, gate = record.router, record.gate
        if record.inputs is None or gate.weight is None or router.score_function not in ("sigmoid", "sqrtsoftplus"):
            return
        if record.logits is None:
            return
        name = router.arithmetic.score if router.arithmetic and router.arithmetic.score else "float32"
        dtype: torch.dtype = getattr(torch, name)
        score = scores(record.logits.to(dtype), router.score_function)
        rows = (score == 0).any(dim=-1) & torch.isfinite(record.logits).all(dim=-1)
        if not bool(rows.any()):
            return
        found = self._backward(record, rows, dtype)
        self.nonfinite[router.path] = self.nonfinite.get(router.path, 0) + found

    @staticmethod
    def _backward(record: Record, rows: Tensor, dtype: torch.dtype) -> int:
        router, gate = record.router, record.gate
        assert record.inputs is not None
        assert gate.weight is not None
        assert router.score_function is not None
        with torch.enable_grad(), torch.inference_mode(False):
            product: torch.dtype = getattr(torch, (router.arithmetic and router.arithmetic.product) or "float32")
            inputs = record.inputs[rows].clone().to(product).requires_grad_()
            weight = gate.weight.detach().clone().to(product).requires_grad_()
            bias = None if gate.logit_bias is None else gate.logit_bias.detach().clone().to(product)
            score = scores(F.linear(inputs, weight, bias).to(dtype), router.score_function)
            chosen = score.gather(-1, record.experts[rows].clamp_min(0))
            if router.renormalised:
                chosen = chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20)
            # Unequal coefficients: the gradient of an equal sum of renormalised weights is zero everywhere.
            slope = torch.linspace(0.5, 1.5, chosen.shape[-1], dtype=dtype, device=chosen.device)
            gradients = torch.autograd.grad((chosen * slope).sum(), [inputs, weight])
            return sum(int((~torch.isfinite(gradient)).sum()) for gradient in gradients)
