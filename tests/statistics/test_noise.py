"""The noise from the pool is that of a normal number for every entry: the same rate of flips, as spread as that one."""

import math

import pytest
import torch
from torch import Tensor

from moeprobe.statistics.noise import RELATIVE, shaken

ROWS, WIDTH, EXPERTS, K, DRAWS = 512, 128, 16, 4, 40


def flips(inputs: Tensor, others: Tensor, weight: Tensor) -> float:
    """Share of the rows that choose other experts."""
    first, second = ((x @ weight.T).topk(K, dim=-1).indices.sort(dim=-1).values for x in (inputs, others))
    return float((first != second).any(dim=-1).double().mean())


def case(kind: str) -> tuple[Tensor, Tensor]:
    """Inputs and a gate; ``tie``: one input for all tokens, at a choice that half a step of the noise changes."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(EXPERTS, WIDTH, generator=generator)
    if kind == "heavy tails":
        inputs *= torch.exp(1.5 * torch.randn(WIDTH, generator=generator))
    if kind == "tie":
        row = inputs[0]
        weight = weight[(weight @ row).argsort(descending=True)]
        gap = weight[K - 1] - weight[K]
        weight[K] += row * (gap @ row - 0.5 * RELATIVE * (row * gap).norm()) / (row @ row)
        inputs = row.expand(ROWS, WIDTH).contiguous()
    return inputs, weight


@pytest.mark.parametrize("kind", ["plain", "heavy tails", "tie"])
def test_the_rate_is_that_of_independent_numbers(kind: str) -> None:
    inputs, weight = case(kind)
    generator = torch.Generator().manual_seed(2)
    long, short = [], []
    for draw in range(DRAWS):
        noise = torch.randn(inputs.shape, generator=generator)
        long.append(flips(inputs, inputs * (1 + RELATIVE * noise), weight))
        blocks = list(shaken(inputs, draw // 4, torch.Generator().manual_seed(draw)))
        short.append(flips(inputs, torch.cat(blocks), weight))
    one, two = (torch.tensor(rates, dtype=torch.float64) for rates in (long, short))
    assert one.mean() > 0.002
    error = math.sqrt(float(one.var() + two.var()) / DRAWS)
    assert abs(float(one.mean() - two.mean())) < 4 * error
    # Rows that shared their noise would all flip, or none.
    assert float(two.std()) < 1.6 * float(one.std())


def test_it_is_normal_entry_by_entry_and_a_function_of_the_seed_and_the_place() -> None:
    ones = torch.ones(400, 96)
    first, again, other = (torch.cat(list(shaken(ones, 0, torch.Generator().manual_seed(seed)))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    numbers = (first.double() - 1) / RELATIVE
    assert abs(float(numbers.mean())) < 0.05
    assert abs(float(numbers.std()) - 1) < 0.05
    assert abs(float((numbers.abs() < 1).double().mean()) - 0.6827) < 0.02
    # No two rows read the same number at the same entry.
    assert all((first.roll(shift, dims=0) != first).double().mean() > 0.99 for shift in range(1, 10))
    assert torch.equal(ones, torch.ones(400, 96))


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (5, 70_000), (9_000, 64), (2, 600_000)])
def test_every_shape_is_shaken_once(rows: int, width: int) -> None:
    inputs = torch.arange(1.0, rows + 1).unsqueeze(-1).expand(rows, width)
    blocks = torch.cat(list(shaken(inputs, 0, torch.Generator().manual_seed(0))))
    assert blocks.shape == inputs.shape
    assert float((blocks / inputs - 1).abs().max()) < 7 * RELATIVE
