"""fp4: two e2m1 numbers a byte; NVFP4 with an fp8 scale for 16 of them, MXFP4 with an exponent for 32."""

import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.bits import fp4
from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError
from moeprobe.checkpoint.quantised.scales import E8M0, numbers, spread

_NV, _MX = 16, 32
_BYTES = (torch.uint8, torch.int8)


def restore_fp4(codes: Codes) -> Restored:
    """``weight_packed`` (compressed-tensors) or ``weight`` (ModelOpt, DeepSeek-V4) [rows, columns / 2] with its scales.

    compressed-tensors divides by ``weight_global_scale``, ModelOpt multiplies by ``weight_scale_2``.

    Raises:
        UnreadableError: scales are missing or do not fit, or the codes are not e2m1.

    """
    name = "weight_packed" if "weight_packed" in codes.parts else "weight"
    packed = codes.need(name, *_BYTES, dims=(2,))
    kind = str(codes.said.get("data_type", ""))
    if "int" in kind:
        raise UnreadableError(f"{name} holds {kind}, which moeprobe cannot read")
    named = [scale for scale in ("weight_scale", "weight_scale_inv", "scale") if scale in codes.parts]
    if len(named) != 1:
        raise UnreadableError(f"{name} is stored as codes and has {len(named) or 'no'} sets of scales")
    scale = codes.need(named[0], dims=(2,))
    whole, group, words = _second(codes, scale, name)
    width = 2 * packed.shape[1]
    if scale.shape != (packed.shape[0], width // group) or width % group:
        raise UnreadableError(
            f"{named[0]} is {list(scale.shape)}, which does not fit {name} of {list(packed.shape)} in groups of {group}"
        )
    factor, _ = spread(numbers(scale, named[0]), named[0], torch.Size((packed.shape[0], width)))
    return Restored(fp4(packed) * factor * whole, 4, words)


def restore_blocks(codes: Codes) -> Restored:
    """``weight_blocks`` [rows, groups, 16] and ``weight_scales`` [rows, groups]: MXFP4 as gpt-oss stores it.

    Raises:
        UnreadableError: the two do not fit.

    """
    blocks = codes.need("weight_blocks", torch.uint8, dims=(3,))
    scales = codes.need("weight_scales", torch.uint8, E8M0)
    if scales.shape != blocks.shape[:2] or blocks.shape[2] * 2 != _MX:
        raise UnreadableError(f"weight_scales is {list(scales.shape)}, which does not fit {list(blocks.shape)} blocks")
    matrix = fp4(blocks.reshape(len(blocks), -1))
    factor, _ = spread(numbers(scales, "weight_scales"), "weight_scales", matrix.shape)
    return Restored(matrix * factor, 4, f"fp4 in groups of {_MX} (MXFP4)")


def _second(codes: Codes, scale: Tensor, name: str) -> tuple[float, int, str]:
    """The factor of the whole matrix, how many numbers share a scale, and the format in words."""
    if scale.element_size() == 1 and scale.dtype is not torch.float8_e4m3fn:
        return 1.0, _MX, f"fp4 in groups of {_MX} (MXFP4)"
    if scale.dtype is not torch.float8_e4m3fn:
        raise UnreadableError(f"{name} is stored as codes of a format that moeprobe does not know")
    divided, times = codes.take("weight_global_scale"), codes.take("weight_scale_2")
    given = [one for one in (divided, times) if one is not None]
    if len(given) != 1 or given[0].numel() != 1:
        raise UnreadableError(f"{name} is NVFP4 and needs one scale of the whole matrix; it has {len(given) or 'none'}")
    factor = float(given[0])
    if not factor:
        raise UnreadableError("the scale of the whole matrix is zero")
    return (1 / factor if times is None else factor), _NV, f"fp4 in groups of {_NV} (NVFP4)"
