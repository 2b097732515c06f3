"""New orders within documents that depend on the token alone, not on the batch or the order in which it is seen."""

import torch
from torch import Tensor

_GOLDEN = 0x9E37_79B9_7F4A_7C15
"""2 ** 64 over the golden ratio, the step of SplitMix64."""


def within_documents(documents: Tensor, positions: Tensor, seed: int) -> Tensor:
    """For every token, the token of the same document whose choice it is given.

    Args:
        documents, positions: [tokens] int64; every document is whole, its tokens in order.
        seed: another one gives another shuffle.

    Returns:
        [tokens] int64 index, a permutation inside every document.

    """
    by_key = torch.argsort(_mixed(documents, positions, seed), stable=True)
    drawn = by_key[torch.argsort(documents[by_key], stable=True)]
    given = torch.empty_like(drawn)
    given[torch.argsort(documents, stable=True)] = drawn
    return given


def turned_documents(documents: Tensor, seed: int) -> Tensor:
    """For every token, the token whose choice it is given when the choices of each document are turned in a circle.

    Neighbours stay neighbours. They route alike, and like ids come in runs, so a full shuffle would take every run
    for an effect of the id or the place that it happens to meet.

    Args:
        documents: [tokens] int64; every document is whole, its tokens in order and in one run.
        seed: another one turns each document by another number of tokens.

    Returns:
        [tokens] int64 index, a rotation inside every document.

    """
    if not documents.numel():
        return documents
    found, run, sizes = torch.unique_consecutive(documents, return_inverse=True, return_counts=True)
    start = (sizes.cumsum(0) - sizes)[run]
    step = _mixed(found, torch.zeros_like(found), seed).remainder(sizes)[run]
    given: Tensor = start + (torch.arange(documents.numel()) - start + step).remainder(sizes[run])
    return given


def _mixed(documents: Tensor, positions: Tensor, seed: int) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over document, position and seed; products wrap."""
    start = ((seed + 1) * _GOLDEN) & ((1 << 63) - 1)
    mixed = documents * 0x1000_0000_01B3 + positions * 0x9E37_79B9 + start
    for shift, factor in ((30, 0xBF58_476D_1CE4_E5B9 - (1 << 64)), (27, 0x94D0_49BB_1331_11EB - (1 << 64)), (31, 1)):
        logical = (mixed >> shift) & ((1 << (64 - shift)) - 1)
        mixed = (mixed ^ logical) * factor
    return mixed
