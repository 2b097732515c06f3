"""Rows: which rows of a tensor are finite, and those rows alone; cheap where all of them are, as nearly always."""

import torch
from torch import Tensor


def finite_rows(tensor: Tensor) -> Tensor:
    """[rows] bool, whether every number in the row is finite.

    A sum over anything that is not finite is not finite either; one that is proves all numbers finite in one pass,
    where looking at each takes four. A sum may overflow, so that only the long way proves the contrary.
    """
    if bool(torch.isfinite(tensor.sum())):
        return torch.ones(tensor.shape[:-1], dtype=torch.bool, device=tensor.device)
    return torch.isfinite(tensor).all(dim=-1)


def taken(tensor: Tensor, keep: Tensor) -> Tensor:
    """The rows where ``keep`` [rows] bool is true; the tensor itself where it is true everywhere."""
    return tensor if bool(keep.all()) else tensor[keep]
