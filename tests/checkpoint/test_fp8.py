"""Dequantised fp8 has the bits of the plain formula, also at the edges of the format."""

import pytest
import torch

from moeprobe.checkpoint.fp8 import dequantize, even_ragged_fp8


def plain(quantized: torch.Tensor, scales: torch.Tensor, block: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    wide = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return (quantized.float() * wide[: quantized.shape[0], : quantized.shape[1]]).to(dtype)


def codes(rows: int, columns: int, nan: bool) -> torch.Tensor:
    raw = torch.randint(0, 256, (rows, columns), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    if not nan:
        raw[(raw & 0x7F) == 0x7F] = 0x7E
    return raw.view(torch.float8_e4m3fn)


@pytest.mark.parametrize("shape", [(576, 256), (128, 128), (130, 70), (5, 300)])
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("size", [1e-30, 1e-4, 1.0, 5e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bits(shape: tuple[int, int], nan: bool, size: float, dtype: torch.dtype) -> None:
    block = (128, 64)
    quantized = codes(*shape, nan)
    grid = [-(-side // step) for side, step in zip(shape, block, strict=True)]
    scales = size * torch.rand(grid, generator=torch.Generator().manual_seed(1))
    made, true = dequantize(quantized, scales, block, dtype), plain(quantized, scales, block, dtype)
    assert made.dtype == dtype
    assert torch.equal(made.isnan(), true.isnan())
    assert torch.equal(made.nan_to_num(0), true.nan_to_num(0))
    assert torch.equal(made.nan_to_num(0).signbit(), true.nan_to_num(0).signbit())


def test_transformers_is_as_it_was_afterwards() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    before = Fp8Dequantize._dequantize_one
    with even_ragged_fp8():
        assert Fp8Dequantize._dequantize_one is not before
    assert Fp8Dequantize._dequantize_one is before
