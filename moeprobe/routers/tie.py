"""The tie between gate rows and experts, from two tables of how every expert answers to every row.

For an unrelated gate which row stands beside which expert is one permutation of many. So the trace of a table has a
known mean and variance (Hoeffding), and so has the covariance of two traces. Energy and mean are held against it
together, each with its own sign, since a trained mean is above zero in some models and below it in others:
their squared distance from zero in units of the covariance is chi-squared with two degrees of freedom, and is given as
the standard normal number of the same probability, 0 +- 1 for an unrelated gate.

The assignment of rows to experts with the largest sum says to whom each row belongs. Chance has a best
assignment, too; so what counts is its lead over the best one that shares no pair with it.
"""

import math
from statistics import NormalDist

import numpy as np

from moeprobe.findings.weights import Exchange, RowTie
from moeprobe.routers.assignment import FORBIDDEN, Table, best_assignment

_MEAN_WEIGHT = 0.7
"""Weight of the mean beside the energy in the table that is assigned: of 0.3, 0.5, 0.7 and 1 it puts the most rows
right in trained checkpoints of 8 to 64 experts, if by little."""
_LARGEST = 1e3
"""Deviations to which entries are clipped, so that no entry outweighs all others."""
_EXCHANGES = 8
_SMALLEST_GAIN = 3.0
_MAD = 1.4826
"""Standard deviation over median absolute deviation of normal numbers."""
_LOWEST = 1e-7


def row_tie(energy: Table, mean: Table) -> RowTie | None:
    """What two tables [experts, rows] of finite answers say; None where every expert answers in the same way."""
    parts = {name: _centred(table) for name, table in (("energy", energy), ("mean", mean))}
    parts = {name: table for name, table in parts.items() if table.any()}
    if not parts:
        return None
    tables = list(parts.values())
    traces = {name: float(table.trace()) / _spread(table) for name, table in parts.items()}
    scores, owner = _fit(tables)
    rows = np.arange(len(scores))
    chosen = scores[rows, owner]
    rival = scores.copy()
    rival[rows, owner] = FORBIDDEN
    second = scores[rows, best_assignment(rival)]
    total = float(chosen.sum())
    return RowTie(
        value=_normal(_squared(list(traces.values()), tables), len(tables)),
        energy=traces.get("energy"),
        mean=traces.get("mean"),
        owner=owner.tolist(),
        gap=[round(float(gap), 2) for gap in _gaps(scores, owner)],
        lead=float(chosen.mean() - second.mean()) / max(float(scores.std()), 1e-12),
        kept=float(scores.trace()) / total if total > 0 else 1.0,
        exchanged=_exchanges(scores, owner),
    )


def _centred(table: Table) -> Table:
    centred: Table = table - table.mean(axis=0, keepdims=True) - table.mean(axis=1, keepdims=True) + table.mean()
    # What is left of equal answers is rounding, not a difference.
    return centred if np.abs(centred).max() > 1e-9 * np.abs(table).max() else np.zeros_like(table)


def _spread(centred: Table) -> float:
    """Standard deviation of the trace over all permutations of the rows."""
    return float(np.sqrt(np.square(centred).sum() / (len(centred) - 1)))


def _squared(traces: list[float], tables: list[Table]) -> float:
    """Squared distance of the traces from zero in units of their covariance over all permutations."""
    if len(traces) == 1:
        return traces[0] ** 2
    one, other = tables
    both = float((one * other).sum()) / (len(one) - 1) / (_spread(one) * _spread(other))
    both = max(-0.999, min(0.999, both))
    return (traces[0] ** 2 + traces[1] ** 2 - 2 * both * traces[0] * traces[1]) / (1 - both**2)


def _normal(squared: float, freedom: int) -> float:
    """The standard normal number that is exceeded as seldom as ``squared`` is by chi-squared with 1 or 2 degrees."""
    if freedom == 1:
        beyond = math.erfc(math.sqrt(squared / 2))
        logarithm = math.log(beyond) if beyond > 0 else -squared / 2
    else:
        logarithm = -squared / 2
    if logarithm > -25:
        return -NormalDist().inv_cdf(min(max(math.exp(logarithm), _LOWEST**2), 1 - _LOWEST))
    found = math.sqrt(-2 * logarithm)
    for _ in range(4):  # log of the tail: -z^2 / 2 - log(z sqrt(2 pi)) - 1 / z^2
        found = math.sqrt(-2 * (logarithm + math.log(found * math.sqrt(2 * math.pi)) + 1 / found**2))
    return found


def _fit(tables: list[Table]) -> tuple[Table, np.ndarray]:
    """How well each row fits each expert [rows, experts], in robust standard deviations, and each row's best expert.

    The sign of the mean is that of the better assignment, so that it does not depend on the order of the rows.
    """
    units = [np.clip(table.T / _deviation(table), -_LARGEST, _LARGEST) for table in tables]
    size = math.hypot(1, _MEAN_WEIGHT)
    ways = [(units[0] + sign * _MEAN_WEIGHT * units[1]) / size for sign in (1, -1)] if len(units) == 2 else units
    rows = np.arange(len(units[0]))
    found = [(way, best_assignment(way)) for way in ways]
    return max(found, key=lambda one: float(one[0][rows, one[1]].sum()))


def _deviation(table: Table) -> float:
    found = _MAD * float(np.median(np.abs(table - np.median(table))))
    return found if found > 0 else float(table.std())


def _gaps(scores: Table, owner: np.ndarray) -> Table:
    """How far each row's pair stands above the best other entry of its row and of its expert."""
    rows = np.arange(len(scores))
    others = scores.copy()
    others[rows, owner] = -np.inf
    rival = np.maximum(others.max(axis=1), others.max(axis=0)[owner])
    gaps: Table = scores[rows, owner] - rival
    return gaps


def _exchanges(scores: Table, owner: np.ndarray) -> list[Exchange]:
    """Few rows that would fit each other's experts better than their own, by how much each, the clearest first.

    Pairs are looked for among all; longer rings are taken from the best assignment.
    """
    own = scores.diagonal()
    gain = (scores + scores.T - own[:, None] - own[None, :]) / 2
    first, second = np.triu_indices(len(scores), k=1)
    order = np.argsort(-gain[first, second])[:_EXCHANGES]
    found = [([int(first[i]), int(second[i])], float(gain[first[i], second[i]])) for i in order]
    found += [(ring, float((scores[ring, owner[ring]] - own[ring]).mean())) for ring in _rings(owner)]
    apart: list[Exchange] = []
    for rows, each in sorted(found, key=lambda one: (-one[1], one[0])):
        if each >= _SMALLEST_GAIN and not any(set(rows) & set(other.rows) for other in apart):
            apart.append(Exchange(rows=rows, gain=round(each, 2)))
    return apart[:_EXCHANGES]


def _rings(owner: np.ndarray) -> list[list[int]]:
    """Rings of at least three rows, each of which belongs to the expert of the next, and few of all."""
    seen: set[int] = set()
    rings = []
    for start in range(len(owner)):
        ring, row = [], start
        while row not in seen:
            seen.add(row)
            ring.append(row)
            row = int(owner[row])
        if 2 < len(ring) <= max(3, len(owner) // 4):
            rings.append(ring)
    return rings
