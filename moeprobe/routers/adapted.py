"""Adapted: the matrix of a gate to which adapters add, as it acts."""

import torch
from torch import Tensor, nn

from moeprobe.routers.arithmetic import quietly
from moeprobe.routers.wrapped import inner

_ROWS = 256
"""Rows of the identity that are multiplied at once."""


def acting_matrix(module: nn.Module) -> Tensor | None:
    """The matrix [columns, width] with which an adapted linear map acts; None where it cannot be told.

    Every kind of adapter adds to the weight in its own way, so it is measured: the map of the identity.
    """
    weight = getattr(inner(module), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point() or weight.is_meta:
        return None
    unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        parts = [_mapped(module, rows) for rows in (torch.zeros_like(unit[:1]), *torch.split(unit, _ROWS))]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    offset, *known = known
    return (torch.cat(known) - offset).mT.contiguous()


def _mapped(module: nn.Module, rows: Tensor) -> Tensor | None:
    """What the map makes of ``rows``; a hash router wants token ids as well, which change nothing of its logits."""
    ids = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for args in ((rows,), (rows, ids)):
        try:
            return _logits(quietly(module, args, {}), len(rows))
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
            continue
    return None


def _logits(output: object, rows: int) -> Tensor | None:
    """The widest floating-point tensor [rows, columns] of an output, the first of these; float32."""
    parts = output if isinstance(output, tuple | list) else (output,)
    fitting = [
        part.detach().reshape(-1, part.shape[-1]).float()
        for part in parts
        if isinstance(part, Tensor) and part.is_floating_point() and part.ndim >= 2
    ]
    fitting = [part for part in fitting if part.shape[0] == rows]
    return max(fitting, key=lambda part: part.shape[-1], default=None)
