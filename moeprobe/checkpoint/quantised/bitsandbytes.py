"""bitsandbytes: nf4 and fp4 in blocks of the flattened matrix, and int8 by rows."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.json_source import JsonError, parse_json

STATE = "weight.quant_state.bitsandbytes__"


def restore_four_bits(codes: Codes) -> Restored:
    """``weight`` [bytes, 1], two codes a byte, the higher half first: entry of ``quant_map`` * absmax of its block.

    With double quantisation the absmax are codes themselves, around an offset.

    Raises:
        UnreadableError: the state is damaged, or sizes do not agree.

    """
    state = _state(codes)
    kind, block, shape = state.get("quant_type"), _count(state, "blocksize"), state.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UnreadableError(f"its quant_state names the shape {shape}, which is no matrix")
    # Stored in other dtypes as well (bnb_4bit_quant_storage); the bytes are the same.
    octets = codes.need("weight").contiguous().view(torch.uint8).flatten()
    table = codes.need("weight.quant_map").float().flatten()
    size = prod(shape)
    if octets.numel() != -(-size // 2) or table.numel() != 16:
        raise UnreadableError(
            f"weight is {list(codes.need('weight').shape)} with {octets.numel()} bytes, which does not hold {shape} "
            f"numbers of 4 bits"
        )
    flat = table[torch.stack([octets >> 4, octets & 0xF], dim=-1).flatten().long()][:size]
    largest = _absmax(codes, state)
    if largest.numel() != -(-size // block):
        raise UnreadableError(f"weight.absmax has {largest.numel()} entries for {size} numbers in blocks of {block}")
    matrix = flat * largest.repeat_interleave(block)[:size]
    return Restored(matrix.reshape(shape), 4, f"{kind} in blocks of {block} (bitsandbytes)")


def restore_eight_bits(codes: Codes) -> Restored:
    """``weight`` [rows, columns] int8 * ``SCB`` [rows] / 127.

    Raises:
        UnreadableError: it is laid out otherwise, or the sizes do not agree.

    """
    weight = codes.need("weight", torch.int8, torch.uint8, dims=(2,)).view(torch.int8)
    largest = codes.need("SCB").float().flatten()
    layout = codes.take("weight_format")
    if layout is not None and bool(layout.any()):
        raise UnreadableError(f"its weight_format is {int(layout.max())}, a layout of bitsandbytes that is not by rows")
    if largest.numel() != weight.shape[0]:
        raise UnreadableError(f"SCB has {largest.numel()} entries for weight of {list(weight.shape)}")
    return Restored(weight.float() * largest[:, None] / 127, 8, "int8 with a scale a row (bitsandbytes)")


def _state(codes: Codes) -> Mapping[str, Any]:
    named = [name for name in codes.parts if name.startswith(STATE)]
    if len(named) != 1:
        raise UnreadableError(f"weight is stored as codes of bitsandbytes, and {STATE}nf4 (its state) is missing")
    try:
        state = parse_json(bytes(codes.need(named[0], torch.uint8).flatten().tolist()))
    except JsonError as error:
        raise UnreadableError("its quant_state is not valid JSON") from error
    if not isinstance(state, Mapping) or state.get("quant_type") not in ("nf4", "fp4"):
        raise UnreadableError("its quant_state names no quant_type that moeprobe knows (nf4, fp4)")
    return state


def _count(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or value < 1:
        raise UnreadableError(f"its quant_state names {value} as {name}")
    return value


def _absmax(codes: Codes, state: Mapping[str, Any]) -> Tensor:
    stored = codes.need("weight.absmax", torch.uint8, torch.float16, torch.bfloat16, torch.float32).flatten()
    if stored.is_floating_point():
        return stored.float()
    table = codes.need("weight.nested_quant_map").float().flatten()
    scale = codes.need("weight.nested_absmax").float().flatten()
    block, offset = _count(state, "nested_blocksize"), state.get("nested_offset")
    if table.numel() != 256 or scale.numel() != -(-stored.numel() // block) or not isinstance(offset, int | float):
        raise UnreadableError(
            f"weight.nested_absmax has {scale.numel()} entries for {stored.numel()} absmax in blocks of {block}"
        )
    return table[stored.long()] * scale.repeat_interleave(block)[: stored.numel()] + float(offset)
