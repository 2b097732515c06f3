"""MLX: codes packed into 32-bit words along the columns; affine with scales and biases, or one of the MX formats."""

import torch

from moeprobe.checkpoint.quantised.bits import E2M1, unpack
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.checkpoint.quantised.scales import numbers, spread

_WIDTHS = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Bits and numbers that share a scale, of the modes that fix both."""
_AFFINE = (2, 3, 4, 5, 6, 8)


def restore_mlx(codes: Codes) -> Restored:
    """``weight`` [rows, columns * bits / 32] uint32: code * scale + bias of its group.

    Bits and size of a group are the config's alone; both are held against the hidden size.

    Raises:
        UnreadableError: the config does not say them, or the shapes do not agree.

    """
    weight = codes.need("weight", torch.uint32, torch.int32, dims=(2,)).view(torch.int32)
    mode = str(codes.said.get("mode") or "affine")
    if mode not in ("affine", *_WIDTHS):
        raise UnreadableError(f"it is stored in MLX's mode {mode}, which moeprobe cannot read")
    bits, group = _WIDTHS.get(mode) or (codes.number("bits"), codes.number("group_size"))
    if bits not in _AFFINE or group < 1:
        raise UnreadableError(f"the quantisation config says {bits} bits in groups of {group}, which MLX does not have")
    columns = weight.shape[1] * 32 // bits
    codes.check_columns(columns, f"weight {list(weight.shape)} at {bits} bits")
    scales = codes.need("scales", dims=(2,))
    if columns % group or scales.shape != (weight.shape[0], columns // group):
        raise UnreadableError(
            f"scales are {list(scales.shape)}, which does not fit {weight.shape[0]} rows of {columns} columns in "
            f"groups of {group}"
        )
    number = unpack(weight, bits)
    shape = number.shape
    if mode != "affine":
        # An fp8 number of a kind of its own: nvfp4's scales are e4m3 in a byte.
        factors = scales.view(torch.float8_e4m3fn).float() if mode == "nvfp4" else numbers(scales, "scales")
        meant = (
            number.to(torch.uint8).view(torch.float8_e4m3fn).float() if bits == 8 else torch.tensor(E2M1)[number.long()]
        )
        return Restored(meant * spread(factors, "scales", shape)[0], bits, f"{mode} in groups of {group} (MLX)")
    name = "biases" if "biases" in codes.parts else "qbiases"
    biases = codes.need(name, dims=(2,))
    if biases.shape != scales.shape:
        raise UnreadableError(f"{name} are {list(biases.shape)} and scales {list(scales.shape)}")
    factor = spread(numbers(scales, "scales"), "scales", shape)[0]
    shift = spread(numbers(biases, name), name, shape)[0]
    return Restored(number.float() * factor + shift, bits, f"int{bits} in groups of {group} (MLX)")
