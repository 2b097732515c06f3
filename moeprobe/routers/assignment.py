"""The best assignment of rows to columns: the permutation of the largest sum (Hungarian method, shortest paths)."""

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
FORBIDDEN = -1e6
"""A score that no assignment takes if it can avoid it; the others must be far smaller in size."""


def best_assignment(scores: Table) -> NDArray[np.int64]:
    """The column of every row [n] in the permutation of the largest sum, exactly, in O(n^3).

    Args:
        scores: [n, n] finite.

    """
    count = scores.shape[0]
    cost = scores.max() - scores
    row_price, column_price = np.zeros(count), cost.min(axis=0)
    row_of = np.full(count, -1)
    for row in range(count):
        _place(row, cost, row_price, column_price, row_of)
    columns = np.empty(count, dtype=np.int64)
    columns[row_of] = np.arange(count)
    return columns


def _place(row: int, cost: Table, row_price: Table, column_price: Table, row_of: NDArray[np.int64]) -> None:
    """Give one more row a column, on the cheapest path along which others move; the prices stay valid."""
    count = len(row_of)
    distance, came_from = np.full(count, np.inf), np.full(count, -1)
    done = np.zeros(count, dtype=bool)
    rows, here, length, column = [row], row, 0.0, -1
    while True:
        new = length + cost[here] - row_price[here] - column_price
        better = ~done & (new < distance)
        distance[better], came_from[better] = new[better], here
        column = int(np.where(done, np.inf, distance).argmin())
        length = float(distance[column])
        done[column] = True
        if row_of[column] < 0:
            break
        here = int(row_of[column])
        rows.append(here)
    for one in rows[1:]:
        row_price[one] += length - distance[np.flatnonzero(row_of == one)[0]]
    row_price[row] += length
    column_price[done] -= length - distance[done]
    while True:
        taken = int(came_from[column])
        before = np.flatnonzero(row_of == taken)
        row_of[column] = taken
        if taken == row:
            return
        column = int(before[0])
