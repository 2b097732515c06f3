"""Coupling: does each gate row belong to its own expert?

Training ties them together: the tokens that a row selects are the tokens that its expert learns from, so an
expert's input matrices answer to their own row differently than to the rows of the other experts. A gate that
was never trained, or whose rows stand in another order, has no such tie, and then which expert meets which row
is a permutation like any other. That gives an exact null distribution without a reference: the diagonal of the
table (expert, row) against all permutations of it (Hoeffding's combinatorial central limit theorem).
"""

import math

import torch
from torch import Tensor

_NEURONS = 256
"""Neurons of an expert that are looked at, spread evenly."""


def coupling(tensors: dict[str, list[Tensor]], gate: Tensor) -> float | None:
    """How far the experts' answers to their own gate rows stand off those to other rows, in standard errors.

    Two answers are combined: the energy of all input matrices along the row, and the mean along it of the
    matrix behind the activation. For an unrelated gate the result is standard normal.

    Args:
        tensors: the experts' tensors (see ``expert_tensors``).
        gate: [experts, hidden] the gate matrix.

    Returns:
        None where no input matrix of the experts is recognised.

    """
    rows = gate.float() - gate.float().mean(dim=0)
    count, hidden = rows.shape
    energy = torch.zeros(count, count, device=rows.device)
    mean = torch.zeros(count, count, device=rows.device)
    found = False
    for name, views in tensors.items():
        if "down" in name or views[0].ndim != 2 or hidden not in views[0].shape or len(views) != count:
            continue
        if not any(word in name for word in ("gate", "up", "w1", "w3", "input")):
            continue
        found = True
        for expert, view in enumerate(views):
            matrix = view if view.shape[1] == hidden else view.T
            answer = _some(matrix).float().to(rows.device) @ rows.T
            energy[expert] += answer.square().sum(dim=0)
            if "gate" in name or "w1" in name:
                fused = "up" in name or "input" in name
                half = _some(matrix[: matrix.shape[0] // 2] if fused else matrix)
                mean[expert] += (half.float().to(rows.device) @ rows.T).mean(dim=0)
    if not found or count < 3:
        return None
    scores = [_diagonal(table.double()) for table in (energy, mean) if bool(table.any())]
    return sum(scores) / math.sqrt(max(1, len(scores)))


def _some(matrix: Tensor) -> Tensor:
    return matrix[:: max(1, matrix.shape[0] // _NEURONS)][:_NEURONS]


def _diagonal(table: Tensor) -> float:
    """The trace in standard deviations of the trace over all permutations of the rows."""
    centred = table - table.mean(dim=0, keepdim=True) - table.mean(dim=1, keepdim=True) + table.mean()
    spread = float((centred.square().sum() / (table.shape[0] - 1)).sqrt())
    return float(centred.diagonal().sum()) / spread if spread > 0 else 0.0
