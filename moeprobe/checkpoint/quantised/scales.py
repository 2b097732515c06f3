"""Scales: one a tensor, a row, a group of columns or a block, multiplied into the codes that they belong to."""

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.codes import UnreadableError, short

E8M0 = getattr(torch, "float8_e8m0fnu", torch.uint8)  # torch 2.6 does not have it
_EXPONENTS = (torch.uint8, E8M0)
Block = tuple[int, int]


def numbers(scale: Tensor, name: str) -> Tensor:
    """The scales as float32; bytes are exponents (e8m0), as all MX formats store them.

    Raises:
        UnreadableError: they are of a dtype that no format has scales in.

    """
    if scale.dtype in _EXPONENTS:
        exponent = scale.view(torch.uint8)
        return torch.where(exponent == 0xFF, torch.nan, torch.exp2(exponent.float() - 127))
    if not scale.is_floating_point():
        raise UnreadableError(f"{name} is stored as {short(scale.dtype)}, so it holds no scales")
    return scale.float()


def spread(scale: Tensor, name: str, shape: torch.Size, block: Block | None = None) -> tuple[Tensor, str]:
    """The scale of every entry of a matrix, and in words which entries share one.

    Args:
        scale: one number, [rows], [rows, 1], [rows, groups], or one a block, as float32.
        name: the tensor's name, for what is raised.
        shape: [rows, columns] of the matrix.
        block: rows and columns that share a scale, where the config says so; the last ones may be smaller.

    Raises:
        UnreadableError: the scales fit the matrix in no way.

    """
    rows, columns = shape
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand(rows, columns), "with one scale"
    if scale.shape in ((rows,), (rows, 1)):
        return scale.reshape(rows, 1).expand(rows, columns), "with a scale a row"
    if scale.ndim == 2 and scale.numel():
        high, wide = block or (-(-rows // scale.shape[0]), -(-columns // scale.shape[1]))
        grid = (-(-rows // max(high, 1)), -(-columns // max(wide, 1)))
        even = block is not None or (rows % scale.shape[0] == 0 and columns % scale.shape[1] == 0)
        if even and tuple(scale.shape) == grid:
            whole = scale.repeat_interleave(high, 0).repeat_interleave(wide, 1)[:rows, :columns]
            return whole, f"in groups of {wide}" if high == 1 else f"in blocks of {high} x {wide}"
    said = f" in blocks of {block[0]} x {block[1]}" if block else ""
    raise UnreadableError(f"{name} is {list(scale.shape)}, which does not fit codes of {list(shape)}{said}")
