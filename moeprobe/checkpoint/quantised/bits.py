"""Bits: numbers of a few bits out of the words that they are packed into."""

import torch
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""What the 16 codes of fp4 (e2m1) stand for."""


def unpack(words: Tensor, bits: int) -> Tensor:
    """Numbers of ``bits`` bits that follow each other without a gap, the lowest bits first.

    Args:
        words: [rows, columns] of any whole-number dtype.
        bits: 1 to 8.

    Returns:
        [rows, columns * bits of a word // bits] int32, not negative.

    """
    stream = _bits(words)
    count = stream.shape[1] // bits
    digits = stream[:, : count * bits].reshape(len(words), count, bits)
    return (digits << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def unpack_apart(words: Tensor, bits: int) -> Tensor:
    """As ``unpack``, where no number reaches into the next word: its highest bits are unused."""
    each = words.element_size() * 8 // bits
    stream = _bits(words).reshape(*words.shape, -1)[..., : each * bits]
    digits = stream.reshape(len(words), -1, bits)
    return (digits << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def fp4(packed: Tensor) -> Tensor:
    """float32 [rows, 2 * columns] of e2m1 codes, two in a byte [rows, columns], the lower half first."""
    return torch.tensor(E2M1)[unpack(packed, 4).long()]


def _bits(words: Tensor) -> Tensor:
    """[rows, bits of a row] int32, the lowest of each word first."""
    octets = words.contiguous().flatten().view(torch.uint8).reshape(len(words), -1)
    return ((octets.unsqueeze(-1).int() >> torch.arange(8, dtype=torch.int32)) & 1).reshape(len(words), -1)
