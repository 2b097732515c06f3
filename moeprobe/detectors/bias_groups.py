"""Who can be chosen, and who can be missed, where the selection is limited to groups: exact, in a box of scores.

Every biased score may take any value between its bounds. Kept groups are those whose rank reaches some
threshold that no group left out exceeds; it may as well be the lowest rank of one of those. Given the threshold,
the scores that serve a column best are known for each group on its own, and what is left is to count. Ties may fall
either way.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeprobe.findings.router import Groups

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

_SLACK = 2.0**-22
"""Groups that are closer than this, relative to the largest score, may be ranked either way: routers add in float32."""


def can_be_chosen(groups: Groups, k: int, least: Floats, most: Floats) -> Flags:
    """Whether some scores between ``least`` and ``most`` [columns] get a column among the top ``k``: [columns]."""
    size = len(least) // groups.count
    group = np.arange(len(least)) // size
    fill = _fill(groups)
    left_out = (groups.count - groups.kept) * size
    # In a kept group it is at its best; every column left out that is filled higher is ahead of it.
    ahead = _fewest_ahead(groups, least, most, bars=most, own=group, kept=True) + left_out * (fill > most)
    # In a group left out it counts as the fill.
    bars = np.full(groups.count, fill)
    masked = _fewest_ahead(groups, least, most, bars=bars, own=np.arange(groups.count), kept=False)
    return (ahead < k) | (masked < k)[group]


def can_be_missed(groups: Groups, k: int, least: Floats, most: Floats) -> Flags:
    """Whether some scores between ``least`` and ``most`` [columns] leave a column out of the top ``k``: [columns]."""
    size = len(least) // groups.count
    columns = np.arange(len(least))
    group = columns // size
    fill = _fill(groups)
    left_out = (groups.count - groups.kept) * size
    lowest, highest = _rank(groups, least), _rank(groups, most)
    first, second = _best_others(groups, most)
    slack = _slack(least, most)
    missed = np.zeros(len(least), dtype=bool)
    bars = np.full(groups.count, fill)
    for threshold in lowest:
        # A group left out: the others that are left out tie with its columns.
        level = _most_level(groups, most, bars, np.arange(groups.count), threshold, (lowest, highest), kept=False)
        possible = lowest <= threshold + slack
        missed |= (possible & (level + left_out - 1 >= k))[group]
        # A kept group: the column is as low as lets its group reach the threshold, the others at their best.
        bar = _lowest_share(groups, least, first, second, threshold, slack)
        level = _most_level(groups, most, bar, group, threshold, (lowest, highest), kept=True) - 1
        missed |= (bar <= most) & (level + left_out * (fill >= bar) >= k)
    return missed


def _fill(groups: Groups) -> float:
    return -np.inf if groups.fill == "-inf" else 0.0


def _slack(least: Floats, most: Floats) -> float:
    return _SLACK * float(max(np.abs(least).max(), np.abs(most).max()))


def _rank(groups: Groups, scores: Floats) -> Floats:
    """What ranks the groups: [..., groups] from [..., columns]."""
    best = 1 if groups.score == "max" else 2
    members = scores.reshape(*scores.shape[:-1], groups.count, -1)
    ranked: Floats = np.sort(members, axis=-1)[..., -best:].sum(axis=-1)
    return ranked


def _best_others(groups: Groups, scores: Floats) -> tuple[Floats, Floats]:
    """The best and the second best score among the other members of each column's group: [..., columns] each."""
    members = scores.reshape(*scores.shape[:-1], groups.count, -1)
    padding = np.full((*members.shape[:-1], 3), -np.inf)
    top = np.sort(np.concatenate([padding, members], axis=-1), axis=-1)[..., -3:, None]
    third, second, first = top[..., 0, :], top[..., 1, :], top[..., 2, :]
    one, two = np.where(members == first, second, first), np.where(members >= second, third, second)
    return one.reshape(scores.shape), two.reshape(scores.shape)


def _fewest_ahead(
    groups: Groups, least: Floats, most: Floats, *, bars: Floats, own: NDArray[np.intp], kept: bool
) -> Floats:
    """The fewest members of kept groups that must exceed each bar [n] while the group ``own`` [n] is kept, or not.

    Infinite where nothing keeps it, or leaves it out.
    """
    lowest, slack = _rank(groups, least), _slack(least, most)
    surely = (least > bars[:, None]).reshape(len(bars), groups.count, -1).sum(axis=2)
    reach = _reach(groups, least, most, bars)
    rows = np.arange(len(bars))
    fewest = np.full(len(bars), np.inf)
    for threshold in lowest:
        cost = surely + np.select([each >= threshold - slack for each in reach], [0.0, 1.0, 2.0], np.inf)
        must = np.broadcast_to(lowest > threshold + slack, cost.shape).copy()
        if kept:
            must[rows, own] = True
        else:
            cost[rows, own] = np.inf
        spare = groups.kept - must.sum(axis=1)
        free = np.sort(np.where(must, np.inf, cost), axis=1).cumsum(axis=1)
        free = np.concatenate([np.zeros((len(bars), 1)), free], axis=1)[rows, np.maximum(spare, 0)]
        total = np.where(spare >= 0, np.where(must, cost, 0.0).sum(axis=1) + free, np.inf)
        fewest = np.minimum(fewest, total)
    return fewest


def _reach(groups: Groups, least: Floats, most: Floats, bars: Floats) -> list[Floats]:
    """The highest rank [n, groups] with no, one and two members above a bar [n] that need not be there."""
    free = np.where(least > bars[:, None], most, np.minimum(most, bars[:, None]))
    first, _ = _best_others(groups, free)
    highest = np.broadcast_to(_rank(groups, most), (len(bars), groups.count))
    if groups.score == "max":
        return [_rank(groups, free), highest, highest]
    # Where a group has one member there is no second to add.
    one = (most + np.where(np.isfinite(first), first, 0.0)).reshape(len(bars), groups.count, -1).max(axis=2)
    return [_rank(groups, free), one, highest]


def _lowest_share(
    groups: Groups, least: Floats, first: Floats, second: Floats, threshold: float, slack: float
) -> Floats:
    """The lowest score [columns] with which a column's group still reaches the threshold."""
    if groups.score == "max":
        alone, needed = first, np.full(len(least), threshold)
    else:
        alone, needed = first + second, threshold - np.where(np.isfinite(first), first, 0.0)
    return np.where(alone >= threshold - slack, least, np.maximum(least, needed - slack))


def _most_level(
    groups: Groups,
    most: Floats,
    bars: Floats,
    own: NDArray[np.intp],
    threshold: float,
    ranks: tuple[Floats, Floats],
    *,
    kept: bool,
) -> Floats:
    """The most members of kept groups that can be level with each bar [n] or above; -inf where that cannot be."""
    lowest, highest = ranks
    slack = _slack(lowest, highest)
    rows = np.arange(len(bars))
    level = (most >= bars[:, None]).reshape(len(bars), groups.count, -1).sum(axis=2).astype(float)
    level[:, highest < threshold - slack] = -np.inf
    must = np.broadcast_to(lowest > threshold + slack, level.shape).copy()
    if kept:
        # Whether it can be kept is the bar's own condition.
        level[rows, own] = (most >= bars[:, None]).reshape(len(bars), groups.count, -1).sum(axis=2)[rows, own]
        must[rows, own] = True
    else:
        level[rows, own] = -np.inf
    spare = groups.kept - must.sum(axis=1)
    free = -np.sort(-np.where(must, -np.inf, level), axis=1)
    free = np.concatenate([np.zeros((len(bars), 1)), free.cumsum(axis=1)], axis=1)[rows, np.maximum(spare, 0)]
    return np.where(spare >= 0, np.where(must, level, 0.0).sum(axis=1) + free, -np.inf)
