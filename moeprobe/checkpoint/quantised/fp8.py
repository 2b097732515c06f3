"""fp8: one e4m3 or e5m2 number a weight, with a scale a tensor, row, group or block; MXFP8 has exponents for scales."""

import torch

from moeprobe.checkpoint.quantised.codes import Codes, Restored, UnreadableError, short
from moeprobe.checkpoint.quantised.compressed_tensors import block_of
from moeprobe.checkpoint.quantised.declared import method_of
from moeprobe.checkpoint.quantised.scales import numbers, spread

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
_SCALES = ("weight_scale", "weight_scale_inv", "scale", "qscale_weight", "weight_scales", "scales")
"""What authors call the factor; it is multiplied, also where its name says *inverse* (DeepSeek)."""


def restore_fp8(codes: Codes) -> Restored:
    """``weight`` [rows, columns] times its scales.

    Without scales it is what it says only where the config declares no quantisation, and fp8 as the dtype of the model.

    Raises:
        UnreadableError: there are no scales, several, or they do not fit.

    """
    weight = codes.need("weight", *FP8, dims=(2,))
    named = [name for name in _SCALES if name in codes.parts]
    kind = short(weight.dtype)
    if not named and codes.said.get("plain_fp8"):
        return Restored(weight.float(), 8, f"{kind} without scales")
    if len(named) != 1:
        having = f"{len(named)} sets of scales ({', '.join(named)})" if named else "no scales"
        raise UnreadableError(f"weight is stored as {kind} and has {having}")
    stored = codes.need(named[0])
    scale = numbers(stored, named[0])
    zero = codes.take("weight_zero_point")
    if zero is not None and bool(zero.float().any()):
        raise UnreadableError(f"weight is stored as {kind} with a weight_zero_point that is not zero")
    block = block_of(codes.said) if scale.ndim == 2 and scale.shape[1] > 1 else None
    exponents = stored.element_size() == 1 and scale.ndim == 2
    if exponents and scale.shape[0] == weight.shape[0]:
        block = None  # MX groups stand beside weights in blocks in one checkpoint (DeepSeek-V4)
    factor, shared = spread(scale, named[0], weight.shape, block)
    method = method_of(codes.said)
    return Restored(weight.float() * factor, 8, f"{kind} {shared}" + (f" ({method})" if method else ""))
