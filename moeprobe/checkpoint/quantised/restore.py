"""Restore: which tensors of a module are one quantised matrix, in which format, and the matrix."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.awq import restore_awq
from moeprobe.checkpoint.quantised.bitsandbytes import STATE, restore_eight_bits, restore_four_bits
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError, short
from moeprobe.checkpoint.quantised.compressed_tensors import restore_bytes, restore_packed
from moeprobe.checkpoint.quantised.declared import method_of, said_of
from moeprobe.checkpoint.quantised.fp4 import restore_blocks, restore_fp4
from moeprobe.checkpoint.quantised.fp8 import FP8, restore_fp8
from moeprobe.checkpoint.quantised.gptq import restore_gptq
from moeprobe.checkpoint.quantised.mlx import restore_mlx
from moeprobe.checkpoint.quantised.naming import OF_CODES, OF_INPUTS

_OF_WEIGHT = re.compile(r"(?:^|(?<=\.))(weight|scale)$")
_OF_UNREAD = re.compile(r"(?:^|(?<=\.))(codes|codebooks|centroids|indices|tables2?)$")
_OF_FLOATS = re.compile(f"{OF_INPUTS.pattern}|{_OF_WEIGHT.pattern}")
_WORDS = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, *FP8)
_UNREAD = {
    "hqq": "HQQ", "quanto": "quanto", "eetq": "EETQ", "aqlm": "AQLM", "vptq": "VPTQ", "spqr": "SpQR", "higgs": "HIGGS",
    "bitnet": "BitNet", "torchao": "torchao", "fp_quant": "FP-Quant", "sinq": "SINQ", "fouroversix": "FourOverSix",
    "gguf": "GGUF", "bitblas": "BitBLAS", "marlin": "Marlin", "exl2": "EXL2", "exl3": "EXL3", "quip": "QuIP#",
}  # fmt: skip
"""Methods whose layouts need their own library (transforms of the input, layouts of a kernel, codebooks)."""


def restore_all(
    tensors: Mapping[str, Tensor],
    stored: Mapping[str, str],
    said: Mapping[str, Any],
    columns: int | None,
) -> tuple[dict[str, Tensor], dict[str, Restored]]:
    """The tensors of a router with every quantised matrix in float32, and without what belongs to its codes.

    Args:
        tensors: by their names in the router, as they are stored.
        stored: those names -> the names in the files.
        said: the quantisation config.
        columns: width of the router's input, None where it is unknown.

    Returns:
        tensors: each quantised matrix under the name of its weight, the others as they are.
        restored: by that name, how each was stored.

    Raises:
        UnreadableError: a matrix cannot be made of its codes, or another tensor is stored as codes.

    """
    left, made = dict(tensors), {}
    for holder, names in _groups(tensors, method_of(said)).items():
        parts = {end: tensors[name] for end, name in names.items()}
        weight = parts.get("weight")
        if (weight is not None and weight.dtype in _WORDS) or any(not _OF_FLOATS.search(end) for end in parts):
            whole = next(iter(names.values()))
            module = stored[whole][: len(stored[whole]) - len(whole) + len(holder)].rstrip(".")
            made[f"{holder}weight"] = _restore(Codes(parts, module, said_of(said, module), columns))
        for end, name in names.items():
            if f"{holder}weight" in made or (OF_INPUTS.search(end) and tensors[name].numel() == 1):
                del left[name]
    for name, tensor in left.items():
        refuse_codes(name, tensor)
    return left | {name: one.matrix for name, one in made.items()}, made


def _groups(names: Collection[str], method: str) -> dict[str, dict[str, str]]:
    """The start of their names -> end -> name, of all that may be parts of one matrix."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        for pattern in (OF_CODES, OF_INPUTS, _OF_WEIGHT, *([_OF_UNREAD] if method in _UNREAD else [])):
            if (found := pattern.search(name)) is not None:
                groups.setdefault(name[: found.start()], {})[found.group()] = name
                break
    return groups


def refuse_codes(name: str, tensor: Tensor) -> None:
    """Do nothing if a tensor that is no quantised matrix holds numbers.

    Raises:
        UnreadableError: it is stored in fp8, or a bias as whole numbers.

    """
    if tensor.dtype in FP8 or (tensor.dtype in _WORDS and "bias" in name):
        raise UnreadableError(f"{name} is stored as {short(tensor.dtype)}, and nothing says how it is scaled")


def _restore(codes: Codes) -> Restored:
    """One matrix.

    Raises:
        UnreadableError: it cannot be made of its codes.

    """
    method = method_of(codes.said)
    if method in _UNREAD:
        raise UnreadableError(f"it is stored in the format of {_UNREAD[method]}, which moeprobe cannot read")
    try:
        restored = _choose(codes)(codes)
    except (RuntimeError, IndexError, TypeError) as error:  # parts of other shapes than anyone writes
        raise UnreadableError(f"its parts ({', '.join(sorted(codes.parts))}) do not fit together") from error
    others = sorted(name for name in codes.parts if OF_CODES.search(name) and name not in codes.used)
    if others:
        raise UnreadableError(f"it is read as {restored.words}, and has {', '.join(others)} as well")
    if restored.matrix.ndim != 2 or not restored.matrix.numel():
        raise UnreadableError(f"its codes make a matrix of {list(restored.matrix.shape)}")
    return restored


def _choose(codes: Codes) -> Callable[[Codes], Restored]:
    """The reader of the format, by the tensors that are there."""
    parts = codes.parts
    weight = parts.get("weight")
    if "weight_packed" in parts:
        return restore_packed if parts["weight_packed"].dtype is torch.int32 else restore_fp4
    if "weight_blocks" in parts:
        return restore_blocks
    if "qweight" in parts:
        return _of_qweight(codes)
    if any(name.startswith((STATE, "weight.absmax")) for name in parts):
        return restore_four_bits
    if weight is None:
        raise UnreadableError(f"it holds {_listed(parts)} and no codes that moeprobe can read")
    if "SCB" in parts:
        return restore_eight_bits
    if weight.dtype in FP8:
        return restore_fp8
    if weight.dtype in (torch.uint32, torch.int32) and "scales" in parts:
        return restore_mlx
    scale = next((parts[name] for name in ("weight_scale", "weight_scale_inv", "scale") if name in parts), None)
    if (
        weight.dtype in (torch.uint8, torch.int8)
        and scale is not None
        and scale.ndim == 2
        and scale.element_size() == 1
    ):
        return restore_fp4
    if weight.dtype is torch.int8 and "weight_scale" in parts:
        return restore_bytes
    raise UnreadableError(f"weight is stored as {short(weight.dtype)} with {_listed(parts)}, which is no format known")


def _of_qweight(codes: Codes) -> Callable[[Codes], Restored]:
    """GPTQ or AWQ: by which side of the codes is packed, which the config must not contradict."""
    qweight, scales = codes.parts["qweight"], codes.parts.get("scales")
    said = f"{method_of(codes.said)} {codes.said.get('packing_format', '')}".lower()
    by_name = "awq" in said
    if scales is not None and scales.ndim == 2 and qweight.ndim == 2:
        by_shape = qweight.shape[1] != scales.shape[1]
        if by_shape != by_name:
            raise UnreadableError(
                f"qweight is {list(qweight.shape)} with scales {list(scales.shape)}, which is not the layout of "
                f"{said.strip() or 'any declared method'}"
            )
    return restore_awq if by_name else restore_gptq


def _listed(parts: Mapping[str, Tensor]) -> str:
    others = sorted(name for name in parts if name != "weight")
    return ", ".join(others[:3]) + (", ..." if len(others) > 3 else "") if others else "no scales"
