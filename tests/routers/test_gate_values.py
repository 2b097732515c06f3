"""How many directions the rows of a gate span, and whether its entries were rounded to a few levels."""

import pytest
import torch
from torch import Tensor

from moeprobe.routers.gate_values import direction_count, distinct_share

SHAPES = [(8, 64), (64, 256), (256, 1024)]


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def directions(weight: Tensor) -> int | None:
    rows = weight.double()
    return direction_count(rows @ rows.T)


def rounded(weight: Tensor, levels: int, group: int) -> Tensor:
    """Rounded symmetrically to ``levels`` steps a side, with one scale for ``group`` entries of a row."""
    parts = weight.reshape(weight.shape[0], -1, group)
    scale = parts.abs().amax(dim=-1, keepdim=True) / levels
    return ((parts / scale).round() * scale).reshape_as(weight).bfloat16()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("common", [0.0, 5.0])
def test_a_product_of_thin_matrices(shape: tuple[int, int], rank: int, dtype: torch.dtype, common: float) -> None:
    """With a common row and without; rounding it to 16 bits leaves the rank visible."""
    thin = gaussian(shape[0], rank) @ gaussian(rank, shape[1], 1) + common * 1e-4 * gaussian(1, shape[1], 2)
    assert directions(thin.to(dtype)) == rank


@pytest.mark.parametrize("shape", SHAPES)
def test_healthy_gates_use_all_directions(shape: tuple[int, int]) -> None:
    plain = gaussian(*shape)
    assert directions(plain.bfloat16()) == shape[0] - 1
    # One direction that dominates, one row that is far longer, and a common offset are no lack of directions.
    assert directions(plain + 10 * gaussian(shape[0], 1) @ gaussian(1, shape[1], 1) / 0.02) >= 0.9 * (shape[0] - 1)
    long = plain.clone()
    long[:2] *= 1e6
    assert directions(long) == shape[0] - 3
    assert directions(plain + gaussian(1, shape[1], 3) * 50) == shape[0] - 1


def test_too_few_rows_have_no_count() -> None:
    assert directions(gaussian(3, 64)) is None
    assert directions(gaussian(1, 64).expand(8, 64)) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_levels(shape: tuple[int, int]) -> None:
    weight = gaussian(*shape)
    for healthy in (weight, weight.bfloat16(), weight.half(), torch.empty(shape).uniform_(-0.1, 0.1).bfloat16()):
        assert distinct_share(healthy) > 0.95
    assert distinct_share(rounded(weight, 127, shape[1])) > 0.75
    assert distinct_share(weight.to(torch.float8_e4m3fn).float()) > 0.75
    for group in (32, 64, shape[1]):
        assert distinct_share(rounded(weight, 7, group)) < 0.65
    assert distinct_share((weight / weight.abs().mean()).round().clamp(-1, 1)) < 0.3


def test_levels_with_a_scale_for_every_column_show_along_the_columns() -> None:
    weight = gaussian(64, 256)
    assert distinct_share(rounded(weight.T.contiguous(), 7, 64).T) < 0.65


def test_zeros_are_no_levels() -> None:
    pruned = gaussian(64, 256) * (torch.rand(64, 256, generator=torch.Generator().manual_seed(1)) < 0.2)
    assert distinct_share(pruned) > 0.95
    assert distinct_share(torch.zeros(64, 256)) is None
    assert distinct_share(gaussian(8, 8)) is None
