"""Binomial tails against exact fractions, and bounds against the tails that define them."""

import math
import random
from fractions import Fraction

import pytest

from moeprobe.detectors.binomial import at_least, at_most, incomplete_beta, lower_bound, upper_bound
from moeprobe.detectors.holm import holm


def exactly(first: int, last: int, trials: int, chance: float) -> float:
    """P(first <= X <= last), the sum of its terms as fractions."""
    p = Fraction(chance)
    return float(sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(first, last + 1)))


def test_tails_are_exact() -> None:
    dice = random.Random(0)
    for _ in range(200):
        trials = dice.randint(1, 100)
        hits = dice.randint(0, trials)
        chance = dice.choice([dice.random(), 10 ** -dice.uniform(1, 6), 1 - 10 ** -dice.uniform(1, 4)])
        assert at_most(hits, trials, chance) == pytest.approx(exactly(0, hits, trials, chance), rel=1e-11, abs=1e-280)
        upper = exactly(hits, trials, trials, chance)
        assert at_least(hits, trials, chance) == pytest.approx(upper, rel=1e-11, abs=1e-280)


@pytest.mark.parametrize(
    ("a", "b", "x", "value"),
    [
        (0.5, 0.5, 0.25, 1 / 3),  # arcsine distribution: 2 / pi * asin(sqrt(x))
        (2.0, 3.0, 0.5, 0.6875),
        (1.0, 7.0, 0.2, 1 - 0.8**7),
        (1e5, 1e5, 0.5, 0.5),
        (3.5, 1.0, 0.3, 0.3**3.5),
    ],
)
def test_incomplete_beta_with_known_values(a: float, b: float, x: float, value: float) -> None:
    assert incomplete_beta(a, b, x, 1 - x) == pytest.approx(value, rel=1e-9)
    assert incomplete_beta(b, a, 1 - x, x) == pytest.approx(1 - value, rel=1e-9)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # Two-sided 95 % Clopper-Pearson intervals as printed in textbooks.
    [(4, 20, 0.0573, 0.4366), (10, 10, 0.6915, 1.0), (0, 10, 0.0, 0.3085), (5, 50, 0.0333, 0.2181)],
)
def test_clopper_pearson(hits: int, trials: int, low: float, high: float) -> None:
    assert lower_bound(hits, trials, 0.025) == pytest.approx(low, abs=1e-4)
    assert upper_bound(hits, trials, 0.025) == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(("hits", "trials"), [(0, 3506.0), (0.7, 12.3), (7.25, 819.2), (2400.0, 1e6), (815.0, 819.2)])
@pytest.mark.parametrize("error", [0.01, 1e-7])
def test_bounds_are_where_the_tails_meet_the_error(hits: float, trials: float, error: float) -> None:
    high, low = upper_bound(hits, trials, error), lower_bound(hits, trials, error)
    assert low <= hits / trials <= high
    assert at_most(hits, trials, high) == pytest.approx(error, rel=1e-6)
    if hits:
        assert at_least(hits, trials, low) == pytest.approx(error, rel=1e-6)
    else:
        assert low == 0
        assert high == pytest.approx(1 - error ** (1 / trials), rel=1e-9)


def test_nothing_and_everything() -> None:
    assert (at_most(10, 10, 0.3), at_least(0, 10, 0.3)) == (1, 1)
    assert (at_most(5, 10, 0.0), at_most(5, 10, 1.0)) == (1, 0)
    assert (at_least(5, 10, 0.0), at_least(5, 10, 1.0)) == (0, 1)
    assert (upper_bound(10, 10, 0.01), lower_bound(0, 10, 0.01)) == (1, 0)
    assert at_most(0, 1e6, 0.5) == 0


def test_tokens_needed_to_prove_a_share() -> None:
    """docs/science.md E1: tokens without a hit that prove less than a hundredth of the fair share."""
    for experts, k, layers, tokens in ((8, 2, 32, 4056), (128, 8, 48, 21319), (384, 8, 60, 70314)):
        share, level = 0.01 * k / experts, 0.01 / (experts * layers)
        assert at_most(0, tokens, share) <= level < at_most(0, tokens - 1, share)


def test_holm() -> None:
    # 0.01 / 4, / 3, / 2, / 1: the third misses 0.005, so the fourth stands too.
    assert holm({"a": 0.0024, "b": 0.0033, "c": 0.0051, "d": 0.006}, 0.01) == {
        "a": pytest.approx(0.0025),
        "b": pytest.approx(0.01 / 3),
    }
    assert list(holm({"a": 0.009, "b": 0.0049, "c": 0.001, "d": 0.0033}, 0.01)) == ["c", "d", "b", "a"]
    assert holm({"a": 0.0026, "b": 0.003, "c": 1.0, "d": 1.0}, 0.01) == {}
    assert holm({}, 0.01) == {}


def test_holm_keeps_the_family_error() -> None:
    dice = random.Random(1)
    wrong = 0
    for _ in range(2000):
        chances = {e: dice.random() for e in range(20)} | dict.fromkeys(range(20, 30), 0.0)
        wrong += any(e < 20 for e in holm(chances, 0.05))
    assert wrong / 2000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
