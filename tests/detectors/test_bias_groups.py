"""What groups leave possible, against every score of a lattice, every way to break a tie, and random scores."""

import itertools
import random
from functools import cache

import numpy as np
import pytest

from moeprobe.detectors.bias_certificates import settle
from moeprobe.detectors.bias_groups import can_be_chosen, can_be_missed
from moeprobe.findings.router import Declared, Groups

from .synthetic import bias, learned

SHAPES = [(3, 1, 2), (3, 2, 2), (2, 1, 3), (4, 2, 1), (5, 3, 1), (2, 1, 2)]
"""Groups, kept groups, members a group."""
WAYS = [(rank, fill) for rank in ("max", "top2-sum") for fill in ("-inf", "0")]


@cache
def _lattice(columns: int) -> np.ndarray:
    return np.array(list(itertools.product([0, 0.25, 0.5, 0.75, 1], repeat=columns)))


def possible(groups: Groups, k: int, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether any row of biased scores [rows, columns] gets a column chosen, or missed, however ties fall."""
    columns = totals.shape[1]
    members = totals.reshape(len(totals), groups.count, -1)
    best = 1 if groups.score == "max" else 2
    ranks = np.sort(members, axis=2)[:, :, -best:].sum(axis=2)
    fill = -np.inf if groups.fill == "-inf" else 0.0
    chosen, missed = np.zeros(columns, bool), np.zeros(columns, bool)
    for kept in itertools.combinations(range(groups.count), groups.kept):
        inside = np.isin(np.arange(groups.count), kept)
        valid = ranks[:, inside].min(axis=1) >= ranks[:, ~inside].max(axis=1, initial=-np.inf)
        values = np.where(np.repeat(inside, columns // groups.count), totals[valid], fill)
        for column in range(columns):
            mine, others = values[:, column : column + 1], np.delete(values, column, axis=1)
            chosen[column] |= bool(((others > mine).sum(axis=1) < k).any())
            missed[column] |= bool(((others >= mine).sum(axis=1) >= k).any())
    return chosen, missed


@pytest.mark.parametrize(("rank", "fill"), WAYS)
@pytest.mark.parametrize(("count", "kept", "size"), SHAPES)
def test_what_is_possible_is_exact(count: int, kept: int, size: int, rank: str, fill: str) -> None:
    dice = random.Random(count * 100 + kept * 10 + size)
    groups = Groups(count=count, kept=kept, score=rank, fill=fill)
    columns, settled = count * size, 0
    for _ in range(12):
        spread = dice.choice([1.0, 2.0, 4.0])
        values = np.array([dice.randint(-4, 4) * spread / 4 + dice.choice([0, 0, 3]) for _ in range(columns)])
        values = np.round(values * 2) / 2 - dice.choice([0, 0, 2])
        k = dice.randint(1, columns - 1)
        chosen, missed = possible(groups, k, values + _lattice(columns))
        assert can_be_chosen(groups, k, values, values + 1).tolist() == chosen.tolist(), (values, k)
        assert can_be_missed(groups, k, values, values + 1).tolist() == missed.tolist(), (values, k)
        settled += int((~chosen).sum() + (~missed).sum())
    assert settled > 0


@pytest.mark.parametrize("ways", [*WAYS, None], ids=str)
def test_no_score_refutes_a_certificate(ways: tuple[str, str] | None) -> None:
    """Corners and random scores; where neither ranking nor fill is known, under every one of them."""
    dice, random_scores = random.Random(1), np.random.default_rng(1)
    proofs = 0
    for _ in range(60):
        count, kept, size = dice.choice([(4, 2, 2), (3, 1, 2), (2, 1, 4)])
        columns, k = count * size, dice.randint(1, 3)
        values = [dice.choice([0, 0.4, 1.1, 2.3, -1.2, 4.0]) + dice.random() / 10 for _ in range(columns)]
        offset = dice.choice([0, 0, -2, 5])
        facts = {"experts": columns, "score_columns": columns, "top_k": k}
        if ways:
            known = [Groups(count=count, kept=kept, score=ways[0], fill=ways[1])]
            facts["groups"] = known[0]
        else:
            known = [Groups(count=count, kept=kept, score=rank, fill=fill) for rank, fill in WAYS]
            facts |= {"groups": None, "declared": Declared(score_function="sigmoid", groups=(count, kept))}
        facts["selection_bias"] = bias([value + offset for value in values])
        settled = settle(learned(function="sigmoid", facts=facts, weights_only=True), 1000)
        proofs += len(settled.never) + len(settled.always)
        corners = np.array(list(itertools.product([0.0, 1.0], repeat=columns)))
        tried = np.concatenate([corners, random_scores.random((500, columns))])
        for groups in known:
            chosen, missed = possible(groups, k, np.array(values) + offset + tried)
            assert not chosen[settled.never].any()
            assert not missed[settled.always].any()
    assert proofs > 60


SHAPES_PUBLISHED = {"DeepSeek-V3": (256, 8, (8, 4)), "GLM-4.5": (160, 8, (1, 1)), "Kimi-K2": (384, 8, (1, 1)),
                    "ungrouped": (256, 8, None)}  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("name", SHAPES_PUBLISHED)
def test_runaways_at_published_shapes(name: str, offset: float) -> None:
    experts, k, groups = SHAPES_PUBLISHED[name]
    healthy = (offset + np.random.default_rng(0).normal(0, 0.1, experts)).tolist()

    def certified(**changed: float) -> tuple[list[int], list[int]]:
        values = [changed.get(f"e{e}", value) for e, value in enumerate(healthy)]
        return _settled(values, experts, k, groups)

    assert certified() == ([], [])
    assert certified(e77=12.0) == ([], [77])
    assert certified(e77=-12.0) == ([77], [])
    by_turns = [12.0 if e % 2 else -12.0 for e in range(experts)]
    assert _settled(by_turns, experts, k, groups) == (list(range(0, experts, 2)), [])
    in_blocks = [12.0 if e < experts // 2 else -12.0 for e in range(experts)]
    assert _settled(in_blocks, experts, k, groups) == (list(range(experts // 2, experts)), [])


def _settled(values: list[float], experts: int, k: int, groups: tuple[int, int] | None) -> tuple[list[int], list[int]]:
    facts = {
        "experts": experts,
        "score_columns": experts,
        "top_k": k,
        "selection_bias": bias(values),
        "declared": Declared(score_function="sigmoid", groups=groups),
    }
    settled = settle(learned(function=None, facts=facts, weights_only=True), 1000)
    assert settled is not None
    assert not settled.assumed
    return settled.never, settled.always
