"""Noise: relative normal noise on a router's input, cut from one pool of normal numbers that is drawn once a run.

A normal number for every entry of the input costs five times as much as the gate's product with it. Row t of a
block reads the pool from ``start + t * step`` on, with a step of an eighth of the width: rows share numbers with
their seven neighbours on either side, but never at the same entry, so that what the gate makes of them is as good
as independent unless gate and input hardly change from entry to entry (tests/statistics/test_noise.py).
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

RELATIVE = 2.0**-8
"""One rounding step of bfloat16."""
_POOL = 2**20
_BLOCK = 2**19
"""Entries that are shaken at once."""


def shaken(inputs: Tensor, seed: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Blocks of rows of ``inputs`` [rows, width], in float32, every entry times 1 + RELATIVE x a normal number.

    Args:
        inputs: what is shaken; it stays as it is.
        seed: of the pool.
        generator: draws where in the pool each block begins.

    """
    rows, width = inputs.shape
    pool = _normal(seed, max(_POOL, 4 * width), inputs.device)
    step = max(1, width // 8)
    block = max(1, min(_BLOCK // width, (pool.numel() // 2 - width) // step))
    last = pool.numel() - (block - 1) * step - width
    starts = torch.randint(last + 1, (-(-rows // block),), generator=generator).tolist()
    for number, start in enumerate(starts):
        part = inputs[number * block : (number + 1) * block].float()
        yield torch.addcmul(part, part, pool.as_strided(part.shape, (step, 1), start), value=RELATIVE)


@lru_cache(maxsize=2)
def _normal(seed: int, size: int, device: torch.device) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device)
