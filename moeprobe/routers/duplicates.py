"""Experts, or rows of a gate, that are the same or nearly so.

Equality is decided on every bit, and only for experts that a sample cannot tell apart. The cosine is that of
the sample: blocks spread evenly over every tensor, converted to float32 a little at a time, so that a layer of
256 experts of 44 million parameters costs about a second and some 100 MB. With 2**18 entries the error of a
cosine of 0.999 is about 4e-6.
"""

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


def expert_gram(tensors: dict[str, list[Tensor]]) -> Tensor:
    """Gram matrix [experts, experts] in float64 of a sample of the experts' entries."""
    count = len(next(iter(tensors.values())))
    total = sum(views[0].numel() for views in tensors.values())
    device = next(iter(tensors.values()))[0].device
    gram = torch.zeros(count, count, dtype=torch.float64, device=device)
    for views in tensors.values():
        sampled = [_blocks(view.reshape(-1), total) for view in views]
        rows = max(1, _AT_ONCE // (count * sampled[0].shape[1]))
        for start in range(0, sampled[0].shape[0], rows):
            part = torch.stack([one[start : start + rows].reshape(-1).float() for one in sampled])
            gram += (part @ part.T).double().to(device)
    return gram


def _blocks(flat: Tensor, total: int) -> Tensor:
    """[blocks, width] view of one tensor's share of the sample; all of it where the expert is small."""
    if total <= _ENTRIES or flat.numel() <= _BLOCK:
        return flat.unsqueeze(0)
    blocks = max(1, _ENTRIES * flat.numel() // total // _BLOCK)
    return flat.unfold(0, _BLOCK, max(1, (flat.numel() - _BLOCK) // blocks))[:blocks]


def identical(tensors: dict[str, list[Tensor]], gram: Tensor) -> list[list[int]]:
    """Groups of experts that are equal bit for bit."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    alike = gram >= _CANDIDATE * norms.unsqueeze(0) * norms.unsqueeze(1)
    groups: list[list[int]] = []
    for expert in range(gram.shape[0]):
        home = next((g for g in groups if bool(alike[g[0], expert]) and _equal(tensors, g[0], expert)), None)
        if home is None:
            groups.append([expert])
        else:
            home.append(expert)
    return [group for group in groups if len(group) > 1]


def _equal(tensors: dict[str, list[Tensor]], first: int, second: int) -> bool:
    return all(torch.equal(views[first], views[second]) for views in tensors.values())
