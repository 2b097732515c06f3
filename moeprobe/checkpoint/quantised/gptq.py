"""GPTQ, and AutoRound in its layout: codes packed along the columns of the transposed matrix."""

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.bits import unpack
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.checkpoint.quantised.declared import method_of

_MINUS_ONE = {"gptq": True, "gptq_v2": False}
_AUTO_ROUND = {"auto_round:auto_gptq": True, "auto_round": False, "auto_round:gptqmodel": False}
"""Layout by the name that the config gives it -> whether zero points are stored less one, as AutoGPTQ began to do."""


def restore_gptq(codes: Codes) -> Restored:
    """(code - zero point) * scale, from ``qweight`` [columns * bits / 32, rows] and tables by group [groups, rows].

    ``g_idx`` [columns] names the group of every column, where they do not follow each other.

    Raises:
        UnreadableError: shapes do not agree, or the config does not say how zero points are stored.

    """
    bits = codes.number("bits")
    less_one = _less_one(codes)
    if not 2 <= bits <= 8:
        raise UnreadableError(f"the quantisation config says {bits} bits, which is no GPTQ format")
    qweight = codes.need("qweight", torch.int32, dims=(2,))
    scales = codes.need("scales", torch.float16, torch.bfloat16, torch.float32, dims=(2,)).float()
    columns, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
    codes.check_columns(columns, f"qweight {list(qweight.shape)} at {bits} bits")
    zeros = unpack(codes.need("qzeros", torch.int32, dims=(2,)), bits)
    if less_one:
        zeros = (zeros + 1) & (2**bits - 1)
    if scales.shape[1] != rows or zeros.shape[1] < rows or zeros.shape[0] != scales.shape[0]:
        raise UnreadableError(
            f"scales are {list(scales.shape)} and qzeros unpack to {list(zeros.shape)}, which does not fit "
            f"{rows} rows of qweight {list(qweight.shape)}"
        )
    group, words = _groups(codes, columns, scales.shape[0])
    number = unpack(qweight.T, bits).T[:columns]
    matrix = (number - zeros[:, :rows][group]).float() * scales[group]
    maker = "AutoRound" if method_of(codes.said) in ("auto-round", "auto_round", "intel/auto-round") else "GPTQ"
    return Restored(matrix.T.contiguous(), bits, f"int{bits} {words} ({maker})")


def _less_one(codes: Codes) -> bool:
    if "packing_format" in codes.said or "auto" in method_of(codes.said):
        layout = str(codes.said.get("packing_format", "auto_round"))
        known = _AUTO_ROUND
    else:
        layout, known = str(codes.said.get("checkpoint_format") or "gptq"), _MINUS_ONE
    if method_of(codes.said) not in ("gptq", "auto-round", "auto_round", "intel/auto-round") or layout not in known:
        raise UnreadableError(
            f"qweight is laid out as {method_of(codes.said) or 'no declared method'} ({layout}), "
            "which moeprobe cannot read"
        )
    return known[layout]


def _groups(codes: Codes, columns: int, count: int) -> tuple[Tensor, str]:
    """The group of every column, and how wide they are."""
    width = codes.number("group_size", -1)
    width = columns if width <= 0 else width
    if -(-columns // width) != count:
        raise UnreadableError(
            f"scales hold {count} groups, and {columns} columns make {-(-columns // width)} of {width}"
        )
    words = "with a scale a row" if count == 1 else f"in groups of {width}"
    order = codes.take("g_idx", torch.int32, torch.int64, dims=(1,))
    if order is None:
        return torch.arange(columns) // width, words
    if order.shape != (columns,) or int(order.min()) < 0 or int(order.max()) >= count:
        raise UnreadableError(
            f"g_idx is {list(order.shape)} with groups up to {int(order.max())}, for {columns} columns in "
            f"{count} groups"
        )
    return order.long(), words
