"""The experiment: data from two experts, fits of three, losses against the number of samples, slopes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.efficiency.fit import cost, fit
from benchmarks.efficiency.regression import EXPERTS, GATES, Array, Expert, Gate, predict
from benchmarks.efficiency.voronoi import idle_expert, voronoi_loss, worst_expert

TRUTHS = {
    "A": np.array([[2.0, 0.5, 1.5, 1.0], [-1.0, 0.3, -2.0, 0.5]]),
    "B": np.array([[2.0, 0.0, 1.0, -1.0], [-2.0, 0.0, 1.0, 2.0]]),
}
"""Two experts each: slope and intercept of the gate, of the expert. No gate slope is 0 (regime 2 of the paper)."""
NOISE = 0.1
SHAKE = 0.3
"""Standard deviation of the starts around the truth."""
_AT_ONCE = 150_000
"""Samples in memory at one time."""


@dataclass(frozen=True)
class Setting:
    """How much is run; each start takes ``look`` steps, the best of them up to ``steps`` more."""

    sizes: tuple[int, ...]
    replicates: int
    truths: tuple[str, ...] = ("A", "B")
    starts: int = 3
    look: int = 20
    steps: int = 200


FULL = Setting((1000, 3162, 10_000, 31_623, 100_000), replicates=32)
SMALL = Setting((300, 1000, 3000), replicates=8, truths=("A",), steps=60)


@dataclass(frozen=True)
class Series:
    """One truth, gate, kind of expert and number of fitted experts; arrays are [sizes, replicates].

    ``below_truth`` is the share of fits whose residual is not above that of the truth itself, as it must be for a least
    squares estimate.
    """

    truth: str
    gate: Gate
    expert: Expert
    fitted: int
    sizes: tuple[int, ...]
    loss: Array
    worst: Array
    idle: Array
    below_truth: float


@dataclass(frozen=True)
class _Task:
    truth: str
    gate: Gate
    expert: Expert
    fitted: int
    size: int
    setting: Setting
    seed: int


def run(setting: Setting, jobs: int = 1, seed: int = 0) -> list[Series]:
    """Every truth, gate and kind of expert, with two experts fitted (the control) and three, on the same draws."""
    kinds = list(product(setting.truths, GATES, EXPERTS, (2, 3)))
    tasks = [_Task(*kind, size, setting, seed) for kind in kinds for size in setting.sizes]
    # The longest first, so that no process is left alone with one of them.
    order = sorted(range(len(tasks)), key=lambda place: -tasks[place].size * tasks[place].fitted)
    if jobs == 1:
        done = [_fits(tasks[place]) for place in order]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            done = list(pool.map(_fits, [tasks[place] for place in order]))
    found = dict(zip(order, done, strict=True))
    series = []
    for place, kind in enumerate(kinds):
        rows = [found[place * len(setting.sizes) + step] for step in range(len(setting.sizes))]
        loss, worst, idle, below = (np.stack(part) for part in zip(*rows, strict=True))
        series.append(Series(*kind, setting.sizes, loss, worst, idle, float(below.mean())))
    return series


def _fits(task: _Task) -> tuple[Array, ...]:
    """Voronoi loss, worst and idle expert, and whether below the truth, [replicates] each."""
    step = max(1, _AT_ONCE // task.size)
    total = task.setting.replicates
    parts = [_some(task, range(first, min(first + step, total))) for first in range(0, total, step)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _some(task: _Task, replicates: range) -> tuple[Array, ...]:
    """A few replicates at once. Inputs, noise and starts depend on the replicate and the size alone."""
    setting, kind = task.setting, (task.gate, task.expert)
    experts = TRUTHS[task.truth]
    draws = [np.random.default_rng([task.seed, task.size, one]) for one in replicates]
    x = np.stack([draw.uniform(-3, 3, task.size) for draw in draws])
    noise = np.stack([draw.normal(0, NOISE, task.size) for draw in draws])
    truth = np.repeat(experts[None], len(draws), axis=0)
    y = predict(truth, x, *kind) + noise
    found, lowest = np.zeros((len(draws), task.fitted, 4)), np.full(len(draws), np.inf)
    for _ in range(setting.starts):
        # The third expert starts at a copy of a true one; then all are shaken.
        copied = np.stack([experts[[0, 1, draw.integers(2)]] for draw in draws])
        start = copied + np.stack([draw.normal(0, SHAKE, (3, 4)) for draw in draws])
        tried, loss = fit(start[:, : task.fitted], x, y, *kind, steps=setting.look)
        better = loss < lowest
        found[better], lowest[better] = tried[better], loss[better]
    found, lowest = fit(found, x, y, *kind, steps=setting.steps)
    below = (lowest <= cost(truth, x, y, *kind)).astype(np.float64)
    return voronoi_loss(found, experts, task.gate), worst_expert(found, experts), idle_expert(found, experts), below


def slope(sizes: tuple[int, ...], values: Array, draws: int = 2000) -> tuple[float, float, float]:
    """Slope of log median against log n, and its 95 % interval from a bootstrap over replicates.

    Args:
        sizes: numbers of samples.
        values: [sizes, replicates].
        draws: bootstrap samples.

    """
    at = np.log(np.array(sizes, dtype=np.float64))
    at = at - at.mean()

    def fitted(medians: Array) -> Array:
        found: Array = (np.log(medians) @ at) / float(at @ at)
        return found

    picks = np.random.default_rng(0).integers(values.shape[1], size=(draws, *values.shape))
    again = np.median(np.take_along_axis(np.broadcast_to(values, picks.shape), picks, axis=2), axis=2)
    low, high = np.quantile(fitted(again), [0.025, 0.975])
    return float(fitted(np.median(values, axis=1))), float(low), float(high)
