"""What the entries of a gate matrix tell: how many directions its rows span, and whether only a few levels are left."""

import torch
from torch import Tensor

_LEFT = 1e-4
"""Share of the energy that may be left out: rounding to 16 bits leaves some 1e-6, the least healthy direction more."""
_REGULAR = 8
"""Rows of a norm this many times the median, or this small a part of it, say nothing about the directions."""
_LEAST_ROWS = 4
_RUN = 16
"""Neighbouring entries that any scheme of a few bits rounds with one scale."""
_SEGMENT = 128
"""Neighbouring entries whose zeros are left out before they are cut into runs."""
_SEGMENTS = 512
"""Segments that are looked at in each direction, spread evenly."""


def direction_count(gram: Tensor) -> int | None:
    """How many directions hold all but 1e-4 of what the rows differ by; None where there are too few rows.

    Args:
        gram: [experts, experts] float64 product of the gate matrix with itself, all rows finite and not zero.

    """
    norms = gram.diagonal().clamp_min(0).sqrt()
    middle = norms.median()
    regular = (norms < _REGULAR * middle) & (norms > middle / _REGULAR)
    if int(regular.sum()) < _LEAST_ROWS:
        return None
    kept = gram[regular][:, regular]
    mean = kept.mean(dim=0)
    apart = kept - mean.unsqueeze(0) - mean.unsqueeze(1) + mean.mean()
    sizes = apart.diagonal().clamp_min(0).sqrt()
    # A row that is the mean row has no direction of its own; neither do rows that are all equal.
    sizes = torch.where(sizes > 1e-6 * middle, sizes, torch.inf)
    energies = torch.linalg.eigvalsh(apart / (sizes.unsqueeze(0) * sizes.unsqueeze(1))).clamp_min(0)
    if not bool(energies.sum() > 0):
        return None
    return int((energies.cumsum(dim=0) > _LEFT * energies.sum()).sum())


def distinct_share(weight: Tensor) -> float | None:
    """Mean share of distinct values in runs of 16 neighbours, zeros left out; None where there is no such run.

    Runs along the rows and, of 16 rows and more, along the columns; the smaller share counts. Rounded to 4 bits, runs
    of Gaussian entries have 0.4 to 0.73, with 8 bits 0.8 to 0.94, in bfloat16 0.99.
    """
    shares = [share for matrix in (weight, weight.T) if (share := _share_along(matrix)) is not None]
    return min(shares, default=None)


def _share_along(matrix: Tensor) -> float | None:
    rows, columns = matrix.shape
    width = min(columns, _SEGMENT) // _RUN * _RUN
    if not width:
        return None
    across = columns // width
    places = torch.arange(0, rows * across, max(1, rows * across // _SEGMENTS))
    starts = places % across * width
    segments = matrix[(places // across).unsqueeze(1), starts.unsqueeze(1) + torch.arange(width)]
    # Zeros go to the end and the others close up: pruned entries are no levels.
    order = (segments == 0).int().sort(dim=1, stable=True).indices
    runs = segments.gather(1, order).reshape(-1, _RUN)
    runs = runs[(runs != 0).all(dim=1)].sort(dim=1).values
    if not len(runs):
        return None
    return float((runs[:, 1:] != runs[:, :-1]).sum() + len(runs)) / runs.numel()
