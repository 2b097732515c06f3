"""Rows: which rows of a tensor are finite, and those rows alone; cheap where all of them are, as nearly always."""

import math

import torch
from torch import Tensor

Rows = Tensor | None
"""Which rows are meant, [rows] bool; None where all of them are."""

_BLOCK = 32


def finite(values: Tensor) -> Rows:
    """Which of the ``values`` [rows] are finite."""
    return None if _sums_up(values) else torch.isfinite(values)


def finite_rows(tensor: Tensor) -> Rows:
    """Whether every number in the row is finite, for each row of a [rows, width] tensor."""
    return None if _sums_up(tensor) else torch.isfinite(tensor).all(dim=-1)


def _sums_up(tensor: Tensor) -> bool:
    """Whether the sum is finite.

    A sum over anything that is not finite is not finite either; one that is proves all numbers finite in one pass,
    where looking at each takes four. A sum may overflow, so that only the long way proves the contrary.
    """
    return math.isfinite(float(tensor.sum()))


def both(first: Rows, second: Rows) -> Rows:
    """The rows that are meant by both."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def taken(tensor: Tensor, keep: Rows) -> Tensor:
    """The rows that ``keep`` means."""
    return tensor if keep is None else tensor[keep]


def left_out(keep: Rows) -> int:
    """How many rows ``keep`` does not mean."""
    return 0 if keep is None else int((~keep).sum())


def column_sums(tensor: Tensor) -> Tensor:
    """Sums over the rows of [rows, columns], [columns] float64: of 32 rows at a time in float32, and of these then."""
    whole = tensor.shape[0] // _BLOCK * _BLOCK
    blocks = tensor[:whole].reshape(-1, _BLOCK, tensor.shape[-1]).sum(dim=1, dtype=torch.float32)
    total = blocks.sum(dim=0, dtype=torch.float64)
    if whole < tensor.shape[0]:
        total += tensor[whole:].sum(dim=0, dtype=torch.float64)
    return total
