"""Information: mutual information of tables of counts, its null, and its interval over documents.

The plug-in estimate is biased upwards by about (rows - 1)(columns - 1) / 2N nats for N independent counts, and tokens
are neither independent of their neighbours nor are the k experts of a token (docs/science.md E7). So it is never
read alone: the same number on labels that were given at random is taken off.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from moeprobe.findings.numbers import Interval
from moeprobe.findings.specialisation import Information
from moeprobe.statistics.intervals import ENDS, MINIMUM_DOCUMENTS, resamples

Table = NDArray[np.float64]

FAMILY_LEVEL = 0.01
"""Chance of calling any of a model's layers specialised where none is."""
_CHUNK = 2**22
"""Cells of resampled tables that are held at once."""


def mutual_information(tables: Table) -> Table:
    """Plug-in mutual information in nats of [..., rows, columns] tables of counts; 0 for an empty one."""
    total = tables.sum(axis=(-2, -1))
    inside = _n_log_n(tables).sum(axis=(-2, -1))
    rows = _n_log_n(tables.sum(axis=-1)).sum(axis=-1)
    columns = _n_log_n(tables.sum(axis=-2)).sum(axis=-1)
    nats: Table = (inside - rows - columns + _n_log_n(total)) / np.maximum(total, 1e-300)
    return np.maximum(nats, 0.0)


def entropy(counts: Table) -> float:
    """Entropy in nats of [columns] counts; 0 for none."""
    total = counts.sum()
    return float(np.log(total) - _n_log_n(counts).sum() / total) if total > 0 else 0.0


def chance_bound(null: Table, level: float) -> float:
    """What one more draw of this null [draws] exceeds with probability ``level``.

    A plug-in mutual information of unrelated labels is distributed like a sum of scaled chi squares, for which a gamma
    distribution with the same two moments stands in (Satterthwaite); its quantile by Wilson and Hilferty. The
    moments come from few draws, so the normal quantile in it is widened to that of a prediction from as many
    (Student's t, by Fisher's expansion).
    """
    mean, spread, draws = float(null.mean()), float(null.std(ddof=1)), len(null)
    if mean <= 0 or spread <= 0:
        return mean
    z, freedom = NormalDist().inv_cdf(1 - level), draws - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t *= (1 + 1 / draws) ** 0.5
    shape = (mean / spread) ** 2
    return mean * float(max(1 - 1 / (9 * shape) + t / (3 * shape**0.5), 0.0)) ** 3


def jackknife_bias(tables: Table, left_out: Table, owner: NDArray[np.int64]) -> float:
    """Bias of the plug-in information of labelled clusters, by leaving one cluster out at a time within its label.

    The permutation null cannot say it where labels matter: dealing them anew makes clusters of one label differ more
    than they do. A label with one cluster says nothing about its spread and is left as it is (Jones, Biometrika
    1974, for the stratified jackknife).

    Args:
        tables: [labels, columns] counts.
        left_out: [clusters, columns] counts of each cluster.
        owner: [clusters] label of each.

    """
    without = tables - (np.arange(len(tables))[:, None] == owner[:, None, None]) * left_out[:, None, :]
    change = mutual_information(without) - mutual_information(tables)
    size = np.bincount(owner, minlength=len(tables))
    return float(((1 - 1 / size[owner]) * change).sum())


def describe(
    seen: Table,
    null: Table,
    resampled: Callable[[Table], Table],
    clusters: int,
    *,
    bias: float | None = None,
    slot_entropy: float,
    documents: int,
    tokens: int,
    layers: int,
) -> Information:
    """Put a table beside its null.

    Args:
        seen: [rows, columns] counts of assignments by label and expert.
        null: [draws] plug-in information of the same with labels at random.
        resampled: [samples, clusters] weights to [samples, rows, columns] tables, for the bootstrap.
        clusters: number of clusters of documents with tokens in them.
        bias: of the plug-in estimate; the mean of the null if it is not given.
        slot_entropy: mean entropy, in nats, of the experts of one token (ln k for k distinct ones).
        documents: that were seen; below 30 no interval is given.
        tokens: that were seen.
        layers: layers of the model that are judged together.

    """
    plugin = float(mutual_information(seen))
    mean, spread = float(null.mean()), float(null.std(ddof=1))
    bias = mean if bias is None else bias
    excess = plugin - bias
    interval = Interval(value=excess)
    if documents >= MINIMUM_DOCUMENTS and clusters >= 2:
        weights = resamples(clusters)
        step = max(1, _CHUNK // seen.size)
        drawn = np.concatenate(
            [mutual_information(resampled(weights[at : at + step])) for at in range(0, len(weights), step)]
        )
        # A resample carries the sampling bias a second time: its spread is used, not its centre.
        low, high = np.quantile(drawn, ENDS) - drawn.mean()
        interval = Interval(value=excess, low=excess + float(low), high=excess + float(high))
    load = entropy(seen.sum(axis=0))
    return Information(
        labels=int((seen.sum(axis=1) > 0).sum()),
        documents=documents,
        tokens=tokens,
        plugin=plugin,
        null_mean=mean,
        null_spread=spread,
        bound=chance_bound(null, FAMILY_LEVEL / max(layers, 1)),
        bias=bias,
        excess=interval,
        entropy=load,
        possible=load - slot_entropy,
    )


def _n_log_n(counts: Table) -> Table:
    product: Table = counts * np.log(np.where(counts > 0, counts, 1.0))
    return product
