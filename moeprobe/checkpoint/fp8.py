"""Block-scaled fp8 on CPU: the same bits as transformers', ten times as fast, and for blocks that do not come out even.

Every real DeepSeek-V3 has weights of 576 rows under 5 rows of scales (the last block is ragged), which transformers
5.23 refuses: "Weight shape (576, 7168) not divisible by scale grid (5, 56)".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_NAN = 0x7F
"""Magnitude of NaN in e4m3fn, the only code that does not move into bfloat16's place unchanged."""
_IN_PLACE = -0x7810
"""Mask of 16 bits for sign, exponent and mantissa of an e4m3 code that was moved left by four."""
_MOVED = 2.0**120
"""Ratio of an e4m3 number to the bfloat16 number whose bits it becomes when it is moved left by four."""
_AT_ONCE = 2**18
"""Numbers that are converted at one time."""
_LARGE = 2.0**7
"""Scales from here on would overflow in float32 if they were multiplied by ``_MOVED``."""


@contextmanager
def even_ragged_fp8() -> Iterator[None]:
    """Within this block transformers dequantises e4m3 weights with ``dequantize``; all other formats as before."""
    try:
        from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    except ImportError:  # an older or newer transformers has it elsewhere, and does without our help
        yield
        return
    before = getattr(Fp8Dequantize, "_dequantize_one", None)
    if before is None:
        yield
        return

    def one(self: Any, quantized: Tensor, scales: Tensor, output_dtype: torch.dtype | None = None) -> Tensor:
        block = getattr(self.hf_quantizer.quantization_config, "weight_block_size", None)
        if not block or not _fits(quantized, scales, block):
            result: Tensor = before(self, quantized, scales, output_dtype)
            return result
        wide = scales.element_size() >= 2
        return dequantize(quantized, scales, tuple(block), output_dtype or (scales.dtype if wide else torch.bfloat16))

    Fp8Dequantize._dequantize_one = one
    try:
        yield
    finally:
        Fp8Dequantize._dequantize_one = before


def _fits(quantized: Tensor, scales: Tensor, block: Any) -> bool:
    if quantized.dtype != torch.float8_e4m3fn or quantized.device.type != "cpu" or not scales.is_floating_point():
        return False
    if quantized.ndim != 2 or scales.ndim != 2:
        return False
    rows, columns = (-(-size // step) for size, step in zip(quantized.shape, block, strict=True))
    return tuple(scales.shape) == (rows, columns)


def dequantize(quantized: Tensor, scales: Tensor, block: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``quantized`` [rows, columns] e4m3 times the scale of its block, rounded once to ``dtype``.

    Args:
        quantized: [rows, columns] float8_e4m3fn.
        scales: [ceil(rows / block rows), ceil(columns / block columns)], any float dtype.
        block: rows and columns of a block.
        dtype: of the result.

    """
    result = torch.empty(*quantized.shape, dtype=dtype)
    # A mode that looks at every call (the arena's, which has given ``result``) would look at tens of thousands.
    with torch._C.DisableTorchFunction():
        _dequantize(quantized, scales.to(torch.float32), block, result)
    return result


def _dequantize(quantized: Tensor, factors: Tensor, block: tuple[int, ...], result: Tensor) -> None:
    (rows, columns), (high, wide) = quantized.shape, block
    quick = bool((factors.abs() < _LARGE).all())
    # In parts that stay in a processor's cache through all steps.
    step = min(high, max(1, _AT_ONCE // columns))
    codes = quantized.new_empty((step, columns), dtype=torch.int16)
    magnitudes = quantized.new_empty((step, columns), dtype=torch.int8)
    padded = torch.zeros(step, factors.shape[1] * wide)
    raw = quantized.view(torch.int8)
    for index in range(factors.shape[0]):
        last = min((index + 1) * high, rows)
        for start in range(index * high, last, step):
            stop = min(start + step, last)
            count = stop - start
            code, values, part = codes[:count], padded[:count], raw[start:stop]
            if quick and int(torch.bitwise_and(part, _NAN, out=magnitudes[:count]).max()) < _NAN:
                code.copy_(part)
                code.bitwise_left_shift_(4).bitwise_and_(_IN_PLACE)
                values[:, :columns].copy_(code.view(torch.bfloat16))
                factor = factors[index] * _MOVED
            else:
                values[:, :columns].copy_(quantized[start:stop])
                factor = factors[index]
            values.view(count, -1, wide).mul_(factor[None, :, None])
            result[start:stop].copy_(values[:, :columns])
