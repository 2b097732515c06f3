"""The tie of rows to experts: its law under permutation, both signs, and the order that restores it."""

import numpy as np
import pytest

from moeprobe.findings.weights import RowTie
from moeprobe.routers.tie import row_tie


def tables(count: int, energy: float, mean: float, seed: int = 0) -> list[np.ndarray]:
    """[experts, rows] noise of odd sizes, and this much on the diagonals."""
    draw = np.random.default_rng(seed)
    made = []
    for tie in (energy, mean):
        table = draw.normal(size=(count, count)) + tie * np.eye(count)
        made.append(table * 3 + draw.normal(size=count) * 9 + draw.normal(size=(count, 1)) * 9)
    return made


def tie(energy: np.ndarray, mean: np.ndarray) -> RowTie:
    found = row_tie(energy, mean)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [8, 16, 64])
def test_an_unrelated_order_is_standard_normal(count: int) -> None:
    """Whatever the tables look like: here both are tied, to one another as well, and the rows are shuffled."""
    draw = np.random.default_rng(1)
    energy, mean = tables(count, 4, 2)
    mean += energy
    seen = []
    for _ in range(400):
        order = draw.permutation(count)
        seen.append(tie(energy[:, order], mean[:, order]).value)
    assert abs(np.mean(seen)) < 0.3
    assert 0.8 < np.std(seen) < 1.3
    assert np.quantile(seen, 0.99) < 3.6


def test_opposite_signs_do_not_cancel() -> None:
    """As energy and mean of a trained layer whose mean is negative."""
    energy, mean = tables(64, 1.5, -1.5)
    found = tie(energy, mean)
    assert found.energy is not None
    assert found.mean is not None
    assert found.energy > 6
    assert found.mean < -6
    assert found.value > 10
    assert tie(energy, -mean).value == pytest.approx(found.value, rel=0.2)
    assert tie(*tables(64, 0, -2)).value > 10


@pytest.mark.parametrize("sign", [1, -1])
def test_the_assignment_restores_a_permuted_order(sign: int) -> None:
    draw = np.random.default_rng(2)
    energy, mean = tables(48, 5, 4 * sign)
    order = draw.permutation(48)
    healthy, found = tie(energy, mean), tie(energy[:, order], mean[:, order])
    assert healthy.kept > 0.99
    assert healthy.owner == list(range(48))
    assert found.value < 4
    assert found.kept < 0.3
    assert found.lead == pytest.approx(healthy.lead)
    right = [row for row in range(48) if found.owner[row] == order[row]]
    assert len(right) > 44
    sure = [row for row in range(48) if found.gap[row] > 3]
    assert len(sure) > 10
    assert set(sure) <= set(right)


def test_chance_has_no_lead() -> None:
    for seed in range(20):
        assert tie(*tables(32, 0, 0, seed)).lead < 0.9
    assert tie(*tables(32, 5, 4)).lead > 1.5


def test_exchanged_rows_are_named() -> None:
    energy, mean = tables(32, 9, 5)
    assert not any(ring.gain > 4 for ring in tie(energy, mean).exchanged)
    order = np.arange(32)
    order[[3, 20]] = 20, 3
    order[[5, 6, 7]] = 6, 7, 5
    found = tie(energy[:, order], mean[:, order])
    clear = [ring.rows for ring in found.exchanged if ring.gain > 5]
    assert sorted(map(sorted, clear)) == [[3, 20], [5, 6, 7]]
    for ring in clear:
        assert [order[row] for row in ring] == [*ring[1:], ring[0]]
    assert found.kept > 0.7


def test_what_all_experts_answer_alike_says_nothing() -> None:
    flat = np.ones((8, 8)) * np.arange(8)
    assert row_tie(flat, flat) is None
    energy, _ = tables(16, 4, 0)
    found = tie(energy, np.zeros((16, 16)))
    assert found.mean is None
    assert found.value == pytest.approx(found.energy, abs=0.3)


def test_large_ties_stay_finite() -> None:
    found = tie(*tables(256, 60, 40))
    assert np.isfinite(found.value)
    assert found.value > 15
