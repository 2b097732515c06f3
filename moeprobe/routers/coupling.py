"""Coupling: does each gate row belong to its own expert?

Training ties them together: the tokens that a row selects are the tokens that its expert learns from, so an
expert's input matrices answer to their own row differently than to the rows of the other experts. A gate that
was never trained, or whose rows stand in another order, has no such tie, and then which expert meets which row
is a permutation like any other. That gives an exact null distribution without a reference: the diagonal of the
table (expert, row) against all permutations of it (Hoeffding's combinatorial central limit theorem).
"""

import math
from functools import cache

import torch
from torch import Tensor

_NEURONS = 256
"""Neurons of an expert that are looked at, spread evenly."""


class Coupling:
    """How far the experts' answers to their own gate rows stand off those to other rows, expert by expert.

    Two answers are combined: the energy of all input matrices along the row, and the mean along it of the
    matrix behind the activation. For an unrelated gate the result is standard normal.

    Args:
        gate: [experts, hidden] the gate matrix.

    """

    def __init__(self, gate: Tensor) -> None:
        self._rows = gate.float() - gate.float().mean(dim=0)
        self._count, self._hidden = self._rows.shape
        self._energy = torch.zeros(self._count, self._count, device=gate.device)
        self._mean = torch.zeros(self._count, self._count, device=gate.device)
        self._found = False

    def add(self, expert: int, tensors: dict[str, Tensor]) -> None:
        """Take in one expert's tensors (see ``expert_tensors``)."""
        rows = self._rows
        for name, view in tensors.items():
            if "down" in name or view.ndim != 2 or self._hidden not in view.shape:
                continue
            if not any(word in name for word in ("gate", "up", "w1", "w3", "input")):
                continue
            self._found = True
            matrix = view if view.shape[1] == self._hidden else view.T
            answer = _answer(_some(matrix).to(rows.device), rows)
            self._energy[expert] += answer.square().sum(dim=0)
            if "gate" in name or "w1" in name:
                fused = "up" in name or "input" in name
                half = _some(matrix[: matrix.shape[0] // 2] if fused else matrix)
                # The mean of the answers is the answer to the mean.
                self._mean[expert] += rows @ half.float().to(rows.device).mean(dim=0)

    def value(self) -> float | None:
        """Standard errors; None where no input matrix of the experts is recognised."""
        if not self._found or self._count < 3:
            return None
        scores = [_diagonal(table.double()) for table in (self._energy, self._mean) if bool(table.any())]
        return sum(scores) / math.sqrt(max(1, len(scores)))


def _answer(neurons: Tensor, rows: Tensor) -> Tensor:
    """[neurons, rows] products in float32; from bfloat16 weights on a processor that multiplies those natively.

    That is many times as fast, and moves the result by less than 0.01 standard errors (measured on trained models).
    """
    if neurons.dtype is torch.bfloat16 and rows.device.type == "cpu" and _multiplies_bfloat16():
        return (neurons.contiguous() @ rows.to(torch.bfloat16).T).float()
    return neurons.float() @ rows.T


@cache
def _multiplies_bfloat16() -> bool:
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # None where torch is built without oneDNN
    return known is not None and bool(known())


def _some(matrix: Tensor) -> Tensor:
    return matrix[:: max(1, matrix.shape[0] // _NEURONS)][:_NEURONS]


def _diagonal(table: Tensor) -> float:
    """The trace in standard deviations of the trace over all permutations of the rows."""
    centred = table - table.mean(dim=0, keepdim=True) - table.mean(dim=1, keepdim=True) + table.mean()
    spread = float((centred.square().sum() / (table.shape[0] - 1)).sqrt())
    return float(centred.diagonal().sum()) / spread if spread > 0 else 0.0
