"""The best assignment, against all permutations and against what must hold of it."""

from itertools import permutations

import numpy as np
import pytest

from moeprobe.routers.assignment import FORBIDDEN, best_assignment


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_no_permutation_is_better(count: int, ties: bool) -> None:
    draw = np.random.default_rng(count)
    rows = np.arange(count)
    for _ in range(10):
        scores = draw.integers(-2, 3, (count, count)).astype(float) if ties else draw.normal(size=(count, count))
        found = best_assignment(scores)
        assert sorted(found.tolist()) == rows.tolist()
        best = max(scores[rows, list(order)].sum() for order in permutations(range(count)))
        assert scores[rows, found].sum() == pytest.approx(best)


@pytest.mark.parametrize("count", [64, 384])
def test_a_planted_order_is_found(count: int) -> None:
    draw = np.random.default_rng(0)
    order = draw.permutation(count)
    scores = draw.normal(size=(count, count))
    scores[np.arange(count), order] += 12
    assert best_assignment(scores).tolist() == order.tolist()


def test_what_is_forbidden_is_not_taken() -> None:
    scores = np.eye(6) * 50
    scores[np.arange(6), np.arange(6)] = FORBIDDEN
    assert not any(best_assignment(scores) == np.arange(6))
