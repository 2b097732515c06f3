"""What a record keeps of the rows of a router: copies, and the norms of what is too large to keep."""

import torch
from torch import Tensor

from moeprobe.routers.routing import lengths


def copied(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A copy in another dtype, None for None."""
    return None if tensor is None else tensor.to(dtype, copy=True)


def norms(tensor: Tensor | None, total: int, factor: float = 1.0) -> Tensor | None:
    """L2 norm of each row in float32; None where the rows are not the router's rows."""
    if tensor is None or tensor.shape[0] != total:
        return None
    return lengths(tensor) if factor == 1.0 else lengths(tensor) * factor
