"""Experts, or rows of a gate, that are the same or nearly so.

Equality is decided on every bit, and only for experts that a sample cannot tell apart. The cosine is that of
the sample: blocks spread evenly over every tensor, converted to float32 a little at a time, so that a layer of
256 experts of 44 million parameters costs about a second and some 100 MB. With 2**18 entries the error of a
cosine of 0.999 is about 4e-6.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_ENTRIES = 2**18
"""Entries of an expert that the cosine looks at."""
_BLOCK = 1024
_AT_ONCE = 2**24
"""Entries in float32 at one time."""
_CANDIDATE = 0.9999
"""Sampled cosine from which two experts are compared bit by bit."""


def nearest(gram: Tensor) -> tuple[list[int], list[float]]:
    """For each row of a Gram matrix [n, n]: the other row of largest cosine, and that cosine (0 for zero rows)."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    cosine = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp_min(torch.finfo(gram.dtype).tiny)
    cosine = torch.nan_to_num(cosine, nan=0.0).clamp(-1, 1).fill_diagonal_(-2)
    found = cosine.max(dim=-1)
    return found.indices.tolist(), found.values.tolist()


class Gram:
    """Gram matrix [experts, experts] in float64 of a sample of the experts' entries, expert by expert.

    Args:
        lasting: whether the tensors that are given stay as they are until ``value``; else samples are copied.

    """

    def __init__(self, lasting: bool) -> None:
        self._lasting = lasting
        self._samples: dict[str, list[Tensor]] = {}

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take in the tensors of the next expert."""
        total = sum(tensor.numel() for tensor in tensors.values())
        for name, tensor in tensors.items():
            sample = sample_of(tensor.reshape(-1), total)
            self._samples.setdefault(name, []).append(sample if self._lasting else sample.clone())

    def value(self) -> Tensor:
        """The matrix of all experts given so far."""
        first = next(iter(self._samples.values()))
        count = len(first)
        gram = torch.zeros(count, count, dtype=torch.float64, device=first[0].device)
        for sampled in self._samples.values():
            rows = max(1, _AT_ONCE // (count * sampled[0].shape[1]))
            for start in range(0, sampled[0].shape[0], rows):
                blocks = [one[start : start + rows].reshape(-1) for one in sampled]
                part = torch.empty(count, blocks[0].numel(), device=gram.device)
                for row, block in zip(part, blocks, strict=True):
                    row.copy_(block)
                gram += (part @ part.T).double().to(gram.device)
        return gram


def sample_of(flat: Tensor, total: int) -> Tensor:
    """[blocks, width] view of one tensor's share of the sample; all of it where the expert is small."""
    if total <= _ENTRIES or flat.numel() <= _BLOCK:
        return flat.unsqueeze(0)
    blocks = max(1, _ENTRIES * flat.numel() // total // _BLOCK)
    return flat.unfold(0, _BLOCK, max(1, (flat.numel() - _BLOCK) // blocks))[:blocks]


def identical(gram: Tensor, equal: Callable[[int, int], bool]) -> list[list[int]]:
    """Groups of experts that are equal bit for bit, as ``equal`` says of those that the sample cannot tell apart."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    alike = gram >= _CANDIDATE * norms.unsqueeze(0) * norms.unsqueeze(1)
    groups: list[list[int]] = []
    for expert in range(gram.shape[0]):
        home = next((g for g in groups if bool(alike[g[0], expert]) and equal(g[0], expert)), None)
        if home is None:
            groups.append([expert])
        else:
            home.append(expert)
    return [group for group in groups if len(group) > 1]
