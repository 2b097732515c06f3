"""Inputs: the sums over a router's input that statistics need, so that the input itself need not be kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moeprobe.routers.routing import lengths
from moeprobe.statistics.rows import column_sums, finite, finite_rows, taken


@dataclass(frozen=True, eq=False)
class InputSums:
    """Over the finite rows: how many, the sum of their squared L2 norms, and the sum of them, [hidden] float64."""

    rows: int
    squares: float
    total: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> "InputSums":
        """Sum up ``inputs`` [rows, hidden]: norms and sums of a few rows in float32, sums of these in float64."""
        norms = lengths(inputs)
        if finite(norms) is not None:
            # Either a row holds what is not finite, or its square is beyond float32.
            inputs = taken(inputs, finite_rows(inputs))
            norms = torch.linalg.vector_norm(inputs, dim=-1, dtype=torch.float64)
        norms = norms.double()
        return cls(inputs.shape[0], float(norms.dot(norms)), column_sums(inputs).cpu())
