"""AWQ, and AutoRound in its layout: eight codes a word along the rows of the matrix, in an order of their own."""

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.bits import unpack
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.checkpoint.quantised.declared import method_of

_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which code of a word stands for the first, second, ... row."""
_BITS = 4


def restore_awq(codes: Codes) -> Restored:
    """(code - zero point) * scale, from ``qweight`` [columns, rows / 8] and tables by group [groups, ...].

    Raises:
        UnreadableError: another version of the layout, or shapes that do not agree.

    """
    version = str(codes.said.get("version") or "gemm").lower()
    bits = codes.number("bits", codes.said.get("w_bit"))
    if bits != _BITS or version != "gemm":
        raise UnreadableError(f"it is AWQ of {bits} bits in the version {version}; moeprobe reads gemm of {_BITS} bits")
    qweight = codes.need("qweight", torch.int32, dims=(2,))
    scales = codes.need("scales", torch.float16, torch.bfloat16, torch.float32, dims=(2,)).float()
    number, zeros = _ordered(qweight), _ordered(codes.need("qzeros", torch.int32, dims=(2,)))
    columns, rows = number.shape
    codes.check_columns(columns, f"qweight {list(qweight.shape)}")
    width = codes.number("group_size", codes.said.get("q_group_size"))
    width = columns if width <= 0 else width
    groups = -(-columns // width)
    if scales.shape != (groups, rows) or zeros.shape != (groups, rows):
        raise UnreadableError(
            f"scales are {list(scales.shape)} and qzeros unpack to {list(zeros.shape)}, where {columns} columns in "
            f"groups of {width} and {rows} rows need [{groups}, {rows}]"
        )
    group = torch.arange(columns) // width
    matrix = (number - zeros[group]).float() * scales[group]
    maker = "AWQ" if method_of(codes.said) == "awq" else "AutoRound, AWQ's layout"
    return Restored(matrix.T.contiguous(), _BITS, f"int{_BITS} in groups of {width} ({maker})")


def _ordered(words: Tensor) -> Tensor:
    """[rows, 8 * words] codes in the order of the matrix."""
    codes = unpack(words, _BITS).reshape(len(words), -1, len(_ORDER))
    return codes[:, :, list(_ORDER)].reshape(len(words), -1)
