"""compressed-tensors: whole numbers packed into 32-bit words (``pack-quantized``), or one in a byte."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.bits import unpack, unpack_apart
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.checkpoint.quantised.scales import Block, numbers, spread

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_WHOLE = (torch.int32, torch.int64)


def restore_packed(codes: Codes) -> Restored:
    """``weight_packed`` [rows, words] with ``weight_shape``: (code - 2**(bits - 1) - zero point) * scale.

    The number of bits follows from the two shapes. Versions before 0.16 left the highest bits of a word unused where
    the numbers do not fill it (3, 5, 6 and 7 bits); the width of the words tells.

    Raises:
        UnreadableError: shapes or config do not agree.

    """
    packed = codes.need("weight_packed", torch.int32, dims=(2,))
    shape = torch.Size(codes.need("weight_shape", *_WHOLE, dims=(1,)).tolist())
    if len(shape) != 2 or min(shape) < 1:
        raise UnreadableError(f"weight_shape is {list(shape)}, which is no matrix")
    bits, dense = _bits(codes, packed, shape)
    offset = 2 ** (bits - 1)
    signed = (unpack if dense else unpack_apart)(packed, bits)[:, : shape[1]] - offset
    scale = numbers(codes.need("weight_scale", *_FLOATS), "weight_scale")
    zero = codes.take("weight_zero_point")
    if zero is not None:
        zero = _zero_points(zero, scale, bits, dense)
    matrix, shared = _scaled(codes, signed.float(), scale, zero)
    return Restored(matrix, bits, f"int{bits} {shared} (compressed-tensors)")


def restore_bytes(codes: Codes) -> Restored:
    """``weight`` [rows, columns] int8: (code - zero point) * scale.

    Raises:
        UnreadableError: the scales do not fit.

    """
    weight = codes.need("weight", torch.int8, dims=(2,))
    scale = numbers(codes.need("weight_scale", *_FLOATS), "weight_scale")
    zero = codes.take("weight_zero_point")
    matrix, shared = _scaled(codes, weight.float(), scale, None if zero is None else zero.float())
    return Restored(matrix, 8, f"int8 {shared}")


def block_of(said: Mapping[str, Any]) -> Block | None:
    """Rows and columns that share a scale, where the config (of any method) says so."""
    for table in (said, *(_weights(said))):
        for name in ("weight_block_size", "block_structure"):
            found = table.get(name)
            if isinstance(found, str) and re.fullmatch(r"\d+x\d+", found):
                found = [int(size) for size in found.split("x")]
            if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(n, int) and n > 0 for n in found):
                return found[0], found[1]
    return None


def _weights(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the config's groups say about weights."""
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(found := group.get("weights"), Mapping):
            yield found


def _bits(codes: Codes, packed: Tensor, shape: torch.Size) -> tuple[int, bool]:
    """How many bits a code has, and whether codes reach from one word into the next."""
    rows, width = packed.shape
    fitting = []
    for bits in range(1, 9):
        dense, apart = -(-shape[1] * bits // 32), -(-shape[1] // (32 // bits))
        unclear = dense == apart and width > 1 and 32 % bits
        if rows == shape[0] and width in (dense, apart) and not unclear:
            fitting.append((bits, width == dense))
    said = {one["num_bits"] for one in _weights(codes.said) if isinstance(one.get("num_bits"), int)}
    chosen = [one for one in fitting if not said or one[0] in said]
    if len(chosen) != 1:
        told = f" at {' or '.join(map(str, sorted(said)))} bits" if said else ""
        raise UnreadableError(
            f"weight_packed is {list(packed.shape)}, which does not hold the {list(shape)} numbers of "
            f"weight_shape{told}"
        )
    return chosen[0]


def _zero_points(zero: Tensor, scale: Tensor, bits: int, dense: bool) -> Tensor:
    """Zero points [rows, groups], packed along the rows where they are words."""
    if zero.dtype is not torch.int32 or zero.shape == scale.shape:
        return zero.float()
    if scale.ndim != 2 or zero.ndim != 2:
        raise UnreadableError(f"weight_zero_point is {list(zero.shape)} for scales of {list(scale.shape)}")
    found: Tensor = (unpack if dense else unpack_apart)(zero.T, bits).T[: scale.shape[0]] - 2 ** (bits - 1)
    if found.shape != scale.shape:
        raise UnreadableError(f"weight_zero_point unpacks to {list(found.shape)} for scales of {list(scale.shape)}")
    return found.float()


def _scaled(codes: Codes, signed: Tensor, scale: Tensor, zero: Tensor | None) -> tuple[Tensor, str]:
    _check_groups(codes, scale, *signed.shape)
    _check_zero_points(codes, scale, zero)
    order = codes.take("weight_g_idx", *_WHOLE, dims=(1,))
    if order is not None and scale.ndim == 2 and not bool((order < 0).any()):
        if order.shape != signed.shape[1:] or int(order.max()) >= scale.shape[1] or scale.shape[0] != signed.shape[0]:
            raise UnreadableError(
                f"weight_g_idx is {list(order.shape)} with groups up to {int(order.max())}, which does not fit "
                f"codes of {list(signed.shape)} with scales of {list(scale.shape)}"
            )
        factor = scale[:, order.long()]
        shift = zero[:, order.long()] if zero is not None and zero.shape == scale.shape else zero
        return (signed - (0 if shift is None else shift)) * factor, "in groups in the order of activations"
    block = block_of(codes.said)
    factor, shared = spread(scale, "weight_scale", signed.shape, block if scale.ndim == 2 else None)
    if zero is not None:
        signed = signed - spread(zero, "weight_zero_point", signed.shape, block if zero.ndim == 2 else None)[0]
    return signed * factor, shared


def _check_zero_points(codes: Codes, scale: Tensor, zero: Tensor | None) -> None:
    """Hold the zero points against the config: there where it says asymmetric, and as many as scales."""
    said = list(_weights(codes.said))
    if zero is None and said and all(one.get("symmetric") is False for one in said):
        raise UnreadableError("weight_zero_point is missing, and the config says that the codes are not symmetric")
    if zero is not None and zero.numel() not in (1, scale.numel()):
        raise UnreadableError(f"weight_zero_point is {list(zero.shape)} for scales of {list(scale.shape)}")


def _check_groups(codes: Codes, scale: Tensor, rows: int, columns: int) -> None:
    """Hold the width of the groups against what the config says, where it says groups and nothing else."""
    said = list(_weights(codes.said))
    if (
        scale.ndim == 2
        and scale.shape[0] not in (1, rows)
        and said
        and all(one.get("strategy") in ("group", "tensor_group", "channel") for one in said)
    ):
        raise UnreadableError(f"weight_scale is {list(scale.shape)} for {rows} rows, and the config says scales by row")
    sizes = {one.get("group_size") for one in said if one.get("strategy") in ("group", "tensor_group")}
    if not sizes or any(one.get("strategy") not in ("group", "tensor_group") for one in said):
        return
    count = scale.shape[1] if scale.ndim == 2 else 1
    if not any(isinstance(size, int) and size > 0 and -(-columns // size) == count for size in sizes):
        told = " or ".join(map(str, sorted(size for size in sizes if isinstance(size, int))))
        raise UnreadableError(
            f"weight_scale is {list(scale.shape)} for {columns} columns, and the config says groups of {told}"
        )
