"""Memory that is used again must hold what fresh memory would, and be copied only where it has to be."""

import pytest
import torch
from torch import Tensor

from moeprobe.checkpoint.arena import Arena, Reusing


def filled(arena: Arena, *shape: int) -> Tensor:
    size = torch.Size(shape).numel() * 2
    return arena.take(size).view(torch.bfloat16).view(shape).normal_()


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def grown(size: int) -> Arena:
    """An arena that has ``size`` bytes in one piece."""
    arena = Arena()
    arena.take(size)
    arena.reset()
    return arena


def test_after_a_reset_the_same_memory_is_handed_out() -> None:
    arena = Arena()
    first, second = arena.take(100), arena.take(1000)
    assert address(first) != address(second)  # it has no block yet
    arena.reset()
    found = [arena.take(100), arena.take(1000)]
    assert address(found[0]) == address(found[1])
    assert found[1].data_ptr() - found[0].data_ptr() == 128
    arena.reset()
    assert arena.take(1128).data_ptr() == found[0].data_ptr()
    assert address(arena.take(1)) != address(found[0])  # nothing is left of it


def test_what_fits_stands_where_it_was_told_to() -> None:
    arena, place = grown(1000), torch.zeros(1, 64, dtype=torch.bfloat16)
    with arena.at(place):
        first, second, third = arena.take(64), arena.take(64), arena.take(64)
        first.fill_(1)
        second.fill_(2)
    assert place.view(torch.uint8).flatten().tolist() == [1] * 64 + [2] * 64
    assert address(third) != address(place)
    assert address(arena.take(64)) == address(third)


@pytest.mark.parametrize("dim", [1, -2])
def test_neighbours_are_joined_without_a_copy(dim: int) -> None:
    arena = grown(4096)
    one, other = filled(arena, 4, 32), filled(arena, 2, 32)
    expected = torch.cat([one[None], other[None]], dim=1)
    with Reusing(arena):
        joined = torch.cat([torch.stack([one]), torch.stack([other], dim=0)], dim=dim)
    assert joined.data_ptr() == one.data_ptr()
    assert joined.is_contiguous()
    assert torch.equal(joined, expected)


@pytest.mark.parametrize("case", ["another order", "another dimension", "a gap", "a turned one", "other memory"])
def test_others_are_copied(case: str) -> None:
    arena = grown(8192)
    one, other = filled(arena, 8, 32), filled(arena, 8, 32)
    pair, dim = {
        "another order": ([other, one], 0),
        "another dimension": ([one, other], 1),
        "a gap": ([one[:4], other], 0),
        "a turned one": ([one.T, other.T], 0),
        "other memory": ([one, other.clone()], 0),
    }[case]
    expected = torch.cat(pair, dim=dim)
    with Reusing(arena):
        joined = torch.cat(pair, dim)
    assert joined.data_ptr() not in (one.data_ptr(), other.data_ptr())
    assert torch.equal(joined, expected)


def test_large_results_stand_in_the_arena() -> None:
    arena = grown(4 * 2**20)
    tensors = [torch.randn(2**17) for _ in range(2)]
    with Reusing(arena):
        stacked, made = torch.stack(tensors, dim=1), torch.empty(2**18, dtype=torch.float32)
        small = torch.stack([tensor[:8] for tensor in tensors])
    assert address(stacked) == address(made) != address(small)
    assert torch.equal(stacked, torch.stack(tensors, dim=1))
