"""Gate shape: the numbers that tell a matrix of independent random entries from one that was trained."""

import math

import torch
from torch import Tensor

from moeprobe.findings.weights import GateShape


def gate_shape(weight: Tensor, gram: Tensor | None = None) -> GateShape | None:
    """Shape of a gate matrix [experts, hidden] of finite entries without zero rows; None below 3 experts.

    ``gram`` [experts, experts] float64 is its product with itself, if that is known already.
    """
    matrix = weight.double().cpu()
    rows, columns = matrix.shape
    products = matrix @ matrix.T if gram is None else gram
    norms = products.diagonal().clamp_min(0).sqrt()
    if rows < 3 or columns < 2 or not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        return None
    entries = rows * columns
    rms = float(norms.square().sum() / entries) ** 0.5
    small = products if rows <= columns else matrix.T @ matrix
    largest = float(torch.linalg.eigvalsh(small)[-1].clamp_min(0).sqrt())
    cosines = (products / (norms.unsqueeze(0) * norms.unsqueeze(1))).fill_diagonal_(0)
    squares = matrix.square().flatten()
    return GateShape(
        rows=rows,
        columns=columns,
        norm_variation=float(norms.std() / norms.mean()),
        largest_singular=largest / (rms * (math.sqrt(rows) + math.sqrt(columns))),
        cosine_rms=math.sqrt(float(cosines.square().sum()) / (rows * (rows - 1)) * columns),
        kurtosis=float(torch.dot(squares, squares)) / entries / rms**4,
    )
