"""Gates packed by plain Python, one number after the other, in the formats of the hub: what moeprobe must read back.

Nothing here is shared with the code that reads: a word is put together as a whole number, bit by bit.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


@dataclass(frozen=True)
class Packed:
    """``parts`` of a module, the quantisation ``config``, the numbers that they mean, and in how many ``bits``."""

    parts: dict[str, Tensor]
    config: dict[str, Any]
    means: Tensor
    bits: int


def _codes(rows: int, columns: int, bits: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (rows, columns), generator=generator).tolist()


def _scales(rows: int, groups: int, seed: int = 1) -> Tensor:
    # Numbers that float16 and bfloat16 hold exactly.
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 32, (rows, groups), generator=generator) / 256


def words(codes: Sequence[int], bits: int, size: int = 32) -> list[int]:
    """The codes one after the other, the first in the lowest bits, as signed words."""
    whole = 0
    for place, code in enumerate(codes):
        whole |= code << (bits * place)
    count = -(-len(codes) * bits // size)
    found = [(whole >> (size * word)) & (2**size - 1) for word in range(count)]
    return [word - 2**size if word >= 2 ** (size - 1) else word for word in found]


def _int32(rows: Sequence[Sequence[int]], bits: int) -> Tensor:
    return torch.tensor([words(row, bits) for row in rows], dtype=torch.int32)


def _meant(
    codes: list[list[int]], scales: Tensor, zero: Callable[[int, int], float], group: Callable[[int], int]
) -> Tensor:
    return torch.tensor(
        [
            [(code - zero(r, group(c))) * float(scales[r, group(c)]) for c, code in enumerate(row)]
            for r, row in enumerate(codes)
        ]
    )


def compressed(rows: int, columns: int, bits: int, size: int, *, symmetric: bool = True, order: bool = False) -> Packed:
    codes, scales = _codes(rows, columns, bits), _scales(rows, columns // size)
    zeros = [[0] * (columns // size)] * rows if symmetric else _codes(rows, columns // size, bits, seed=2)
    offset = 2 ** (bits - 1)
    index = [(7 * c) % (columns // size) for c in range(columns)] if order else [c // size for c in range(columns)]
    parts = {
        "weight_packed": _int32(codes, bits),
        "weight_scale": scales.bfloat16(),
        "weight_shape": torch.tensor([rows, columns]),
    }
    if not symmetric:
        parts["weight_zero_point"] = _int32(list(zip(*zeros, strict=True)), bits).T.contiguous()
    if order:
        parts["weight_g_idx"] = torch.tensor(index, dtype=torch.int32)
    group = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": size, "symmetric": symmetric}
    config = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": group}}}
    means = _meant(codes, scales, lambda r, g: offset + (0 if symmetric else zeros[r][g] - offset), index.__getitem__)
    return Packed(parts, config, means, bits)


def whole_bytes(rows: int, columns: int) -> Packed:
    codes, scales = _codes(rows, columns, 8), _scales(rows, 1)
    parts = {"weight": (torch.tensor(codes) - 128).to(torch.int8), "weight_scale": scales.bfloat16()}
    return Packed(parts, {"quant_method": "compressed-tensors"}, _meant(codes, scales, lambda *_: 128, lambda _: 0), 8)


def fp8(rows: int, columns: int, scale: Tensor, name: str, **config: Any) -> Packed:
    """``scale`` [block rows, block columns], or one number: every entry counts for as much as the shapes say."""
    torch.manual_seed(3)
    weight = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    high, wide = (*scale.shape, 1, 1)[:2]
    block = config.get("weight_block_size") or [rows // high, columns // wide]
    exponents = scale.dtype == torch.uint8
    means = weight.float()
    for r in range(rows):
        for c in range(columns):
            factor = float(scale) if scale.numel() == 1 else float(scale[r // block[0], c // block[1]])
            means[r, c] *= 2 ** (factor - 127) if exponents else factor
    return Packed({"weight": weight, name: scale}, config, means, 8)


def fp4(rows: int, columns: int, kind: str) -> Packed:
    codes = _codes(rows, columns, 4)
    pairs = [[row[c] | row[c + 1] << 4 for c in range(0, columns, 2)] for row in codes]
    octets = torch.tensor(pairs, dtype=torch.uint8)
    size = 32 if kind in ("mxfp4", "blocks") else 16
    if size == 32:
        scale = torch.randint(120, 130, (rows, columns // size), dtype=torch.uint8)
        factors = torch.tensor([[2.0 ** (int(one) - 127) for one in row] for row in scale])
    else:
        scale = _scales(rows, columns // size).mul(64).to(torch.float8_e4m3fn)
        factors = scale.float()
    parts = {
        "mxfp4": {"weight_packed": octets, "weight_scale": scale},
        "blocks": {"weight_blocks": octets.reshape(rows, -1, 16), "weight_scales": scale},
        "nvfp4": {"weight_packed": octets, "weight_scale": scale, "weight_global_scale": torch.tensor([8.0])},
        "modelopt": {"weight": octets, "weight_scale": scale, "weight_scale_2": torch.tensor(0.25)},
    }[kind]
    whole = {"nvfp4": 1 / 8, "modelopt": 0.25}.get(kind, 1)
    means = torch.tensor([[E2M1[code] for code in row] for row in codes]) * factors.repeat_interleave(size, 1) * whole
    return Packed(parts, {"quant_method": "modelopt" if kind == "modelopt" else "compressed-tensors"}, means, 4)


def four_bits(rows: int, columns: int, kind: str, *, double: bool, block: int = 64) -> Packed:
    codes = [code for row in _codes(rows, columns, 4) for code in row]
    octets = [codes[i] << 4 | codes[i + 1] for i in range(0, len(codes), 2)]
    table = torch.linspace(-1, 1, 16) ** 3
    count = -(-len(codes) // block)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
    parts = {"weight": torch.tensor(octets, dtype=torch.uint8).reshape(-1, 1), "weight.quant_map": table}
    if double:
        nested = _codes(1, count, 8)[0]
        second, offset = torch.linspace(-1, 1, 256), 0.75
        scale = torch.tensor([0.5, 0.25])[: -(-count // 256)]
        largest = [float(second[code]) * float(scale[i // 256]) + offset for i, code in enumerate(nested)]
        parts |= {"weight.absmax": torch.tensor(nested, dtype=torch.uint8)}
        parts |= {"weight.nested_absmax": scale, "weight.nested_quant_map": second}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    else:
        largest = (_scales(1, count)[0] * 4).tolist()
        parts["weight.absmax"] = torch.tensor(largest)
    written = list(json.dumps(state).encode())
    parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(written, dtype=torch.uint8)
    means = torch.tensor([float(table[code]) * largest[i // block] for i, code in enumerate(codes)])
    return Packed(parts, {"quant_method": "bitsandbytes", "load_in_4bit": True}, means.reshape(rows, columns), 4)


def eight_bits(rows: int, columns: int) -> Packed:
    codes, largest = _codes(rows, columns, 8), _scales(rows, 1) * 16
    parts = {"weight": (torch.tensor(codes) - 128).to(torch.int8), "SCB": largest[:, 0].float()}
    parts["weight_format"] = torch.tensor(0, dtype=torch.uint8)
    means = _meant(codes, largest / 127, lambda *_: 128, lambda _: 0)
    return Packed(parts, {"quant_method": "bitsandbytes", "load_in_8bit": True}, means, 8)


def gptq(
    rows: int, columns: int, bits: int, size: int, *, config: dict[str, Any], less_one: bool, order: bool
) -> Packed:
    codes, scales = _codes(rows, columns, bits), _scales(rows, columns // size)
    zeros = _codes(rows, columns // size, bits, seed=2)
    index = [(5 * c) % (columns // size) if order else c // size for c in range(columns)]
    kept = [[(zero - less_one) % 2**bits for zero in row] for row in zeros]
    parts = {
        "qweight": _int32(codes, bits).T.contiguous(),
        "qzeros": _int32(list(zip(*kept, strict=True)), bits),
        "scales": scales.T.half().contiguous(),
        "g_idx": torch.tensor(index, dtype=torch.int32),
    }
    means = _meant(codes, scales, lambda r, g: zeros[r][g], index.__getitem__)
    return Packed(parts, {"bits": bits, "group_size": size} | config, means, bits)


def awq(rows: int, columns: int, size: int) -> Packed:
    codes, scales = _codes(rows, columns, 4), _scales(rows, columns // size)
    zeros = _codes(rows, columns // size, 4, seed=2)

    def interleaved(table: list[list[int]]) -> Tensor:
        """[columns, rows / 8]: row 0, 2, 4, 6, 1, 3, 5, 7 of every eight, from the lowest bits on."""
        turned = list(zip(*table, strict=True))
        order = [8 * block + one for block in range(rows // 8) for one in (0, 2, 4, 6, 1, 3, 5, 7)]
        return _int32([[line[one] for one in order] for line in turned], 4)

    parts = {"qweight": interleaved(codes), "qzeros": interleaved(zeros), "scales": scales.T.half().contiguous()}
    means = _meant(codes, scales, lambda r, g: zeros[r][g], lambda c: c // size)
    return Packed(parts, {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}, means, 4)


def mlx(rows: int, columns: int, bits: int, size: int) -> Packed:
    codes, scales = _codes(rows, columns, bits), _scales(rows, columns // size)
    biases = -_scales(rows, columns // size, seed=5)
    raw = b"".join(struct.pack("<i", word) for row in codes for word in words(row, bits))
    weight = torch.frombuffer(bytearray(raw), dtype=torch.uint32).reshape(rows, -1)
    means = _meant(codes, scales, lambda *_: 0, lambda c: c // size) + biases.repeat_interleave(size, 1)
    parts = {"weight": weight, "scales": scales.bfloat16(), "biases": biases.bfloat16()}
    return Packed(parts, {"bits": bits, "group_size": size}, means, bits)


def every_format(rows: int = 16, columns: int = 128) -> dict[str, Packed]:
    """One gate in each format, by a name for the test."""
    vector = _scales(rows, 1)
    auto = {"quant_method": "auto-round"}
    found = {
        "compressed-tensors int4": compressed(rows, columns, 4, 32),
        "compressed-tensors int4, zero points": compressed(rows, columns, 4, 32, symmetric=False),
        "compressed-tensors int4, activation order": compressed(rows, columns, 4, 32, order=True),
        "compressed-tensors int8": compressed(rows, columns, 8, 64),
        "compressed-tensors int3": compressed(rows, columns, 3, 32, symmetric=False),
        "compressed-tensors int8 in bytes": whole_bytes(rows, columns),
        "fp8, one scale": fp8(rows, columns, torch.tensor(0.125), "weight_scale", quant_method="modelopt"),
        "fp8, a scale a row": fp8(rows, columns, vector.bfloat16(), "weight_scale", quant_method="fbgemm_fp8"),
        "fp8 in ragged blocks": fp8(
            rows, columns, _scales(2, 3), "weight_scale_inv", quant_method="fp8", weight_block_size=[12, 48]
        ),
        "mxfp8": fp8(rows, columns, torch.randint(120, 130, (rows, columns // 32), dtype=torch.uint8), "weight_scale"),
        "bitsandbytes int8": eight_bits(rows, columns),
        "AWQ": awq(rows, columns, 32),
    }
    found |= {f"fp4, {kind}": fp4(rows, columns, kind) for kind in ("mxfp4", "blocks", "nvfp4", "modelopt")}
    for kind in ("nf4", "fp4"):
        found |= {f"bitsandbytes {kind}, {double=}": four_bits(rows, columns, kind, double=double) for double in (0, 1)}
    for bits in (2, 3, 4, 8):
        v1 = {"quant_method": "gptq"}
        found[f"GPTQ int{bits}"] = gptq(rows * 2, columns, bits, 32, config=v1, less_one=True, order=bits == 4)
    v2 = {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}
    found["GPTQ v2"] = gptq(rows, columns, 4, 32, config=v2, less_one=False, order=False)
    for layout, less in (("auto_round:auto_gptq", True), ("auto_round", False)):
        said = auto | {"packing_format": layout}
        found[f"AutoRound {layout}"] = gptq(rows, columns, 4, 32, config=said, less_one=less, order=False)
    packed = awq(rows, columns, 32)
    said = auto | {"packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32}
    found["AutoRound AWQ"] = Packed(packed.parts, said, packed.means, 4)
    return found | {f"MLX int{bits}": mlx(rows, columns, bits, 32) for bits in (2, 3, 4, 5, 6, 8)}
