"""Gate shape: the numbers that tell a matrix of independent random entries from one that was trained."""

import math

import torch
from torch import Tensor

from moeprobe.findings.weights import GateShape


def gate_shape(weight: Tensor) -> GateShape | None:
    """Shape of a gate matrix [experts, hidden] of finite entries without zero rows; None below 3 experts."""
    matrix = weight.double().cpu()
    rows, columns = matrix.shape
    norms = matrix.norm(dim=-1)
    if rows < 3 or columns < 2 or not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        return None
    rms = matrix.square().mean().sqrt()
    small = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    largest = float(torch.linalg.eigvalsh(small)[-1].clamp_min(0).sqrt())
    unit = matrix / norms.unsqueeze(-1)
    between = (unit @ unit.T).fill_diagonal_(0).square().sum() / (rows * (rows - 1))
    return GateShape(
        rows=rows,
        columns=columns,
        norm_variation=float(norms.std() / norms.mean()),
        largest_singular=largest / (float(rms) * (math.sqrt(rows) + math.sqrt(columns))),
        cosine_rms=math.sqrt(float(between) * columns),
        kurtosis=float((matrix / rms).square_().square_().mean()),
    )
