"""Design effects against a plain loop, against the variance of repeated samples, and merged."""

import numpy as np
import pytest
import torch

from moeprobe.findings.evidence import Load
from moeprobe.statistics.clusters import CLUSTERS, assign, design_effects
from moeprobe.statistics.load import LoadStatistic
from tests.statistics.test_merge import SOURCES, collect, gate, record


def draw(dice: np.random.Generator, size: np.ndarray, share: np.ndarray, spread: float) -> np.ndarray:
    """Counts of documents whose own chance scatters about the share of their source (beta-binomial)."""
    return dice.binomial(size, dice.beta(share / spread, (1 - share) / spread))


def test_clusters_keep_sources_apart_and_are_used_evenly() -> None:
    sources = torch.randint(0, 3, (1000,), generator=torch.Generator().manual_seed(0))
    cluster = assign(sources)
    assert int(cluster.max()) < CLUSTERS
    assert torch.equal(cluster % 3, sources)
    used = torch.bincount(cluster, minlength=CLUSTERS)[: 85 * 3]
    assert int(used.min()) >= 3
    few = assign(torch.arange(56) % 8)
    assert len(set(few.tolist())) == 56
    assert assign(torch.arange(300)).tolist() == [i % CLUSTERS for i in range(300)]
    assert assign(torch.tensor([], dtype=torch.int64)).numel() == 0


def test_against_a_plain_loop() -> None:
    dice = np.random.default_rng(0)
    sources = [0, 1, 0, 1, 0, 1, 1]
    size = dice.integers(50, 400, 7)
    seen = np.stack([dice.binomial(size, p) for p in (0.1, 0.3, 0.6)], axis=1)
    cluster = assign(torch.tensor(sources))
    counts, tokens = torch.zeros(CLUSTERS, 3, dtype=torch.int64), torch.zeros(CLUSTERS, dtype=torch.int64)
    counts[cluster], tokens[cluster] = torch.tensor(seen), torch.tensor(size)
    expected = []
    for e in range(3):
        variance = 0.0
        for s in (0, 1):
            docs = [d for d in range(7) if sources[d] == s]
            share = sum(seen[d, e] for d in docs) / sum(size[d] for d in docs)
            variance += len(docs) / (len(docs) - 1) * sum((seen[d, e] - share * size[d]) ** 2 for d in docs)
        p = seen[:, e].sum() / size.sum()
        expected.append(variance / (size.sum() * p * (1 - p)))
    assert design_effects(counts, tokens, 2) == pytest.approx(expected)


@pytest.mark.parametrize("spread", [1e-6, 0.03])
def test_it_is_the_variance_over_repeated_samples(spread: float) -> None:
    """240 documents of 8 sources; the effect over independent tokens is what repeating the whole probe shows."""
    dice = np.random.default_rng(1)
    sources = np.arange(240) % 8
    share = np.linspace(0.15, 0.35, 8)[sources]
    size = dice.integers(50, 400, 240)
    totals = [draw(dice, size, share, spread).sum() for _ in range(4000)]
    p = float((share * size).sum() / size.sum())
    true = np.var(totals) / (size.sum() * p * (1 - p))
    seen = []
    for _ in range(60):
        counts, tokens = torch.zeros(CLUSTERS, 1, dtype=torch.int64), torch.zeros(CLUSTERS, dtype=torch.int64)
        cluster = assign(torch.tensor(sources))
        counts[cluster, 0], tokens[cluster] = torch.tensor(draw(dice, size, share, spread)), torch.tensor(size)
        seen.append(design_effects(counts, tokens, 8)[0])
    assert np.mean(seen) == pytest.approx(true, rel=0.08)


def test_what_cannot_be_measured_is_none() -> None:
    counts, tokens = torch.zeros(CLUSTERS, 4, dtype=torch.int64), torch.zeros(CLUSTERS, dtype=torch.int64)
    assert design_effects(counts, tokens, 1) is None
    tokens[0] = 100
    assert design_effects(counts, tokens, 1) is None
    tokens[1] = 100
    counts[:2] = torch.tensor([[0, 15, 100, 50], [29, 15, 100, 50]])
    few, enough, always, half = design_effects(counts, tokens, 1)
    assert (few, always) == (None, None)
    assert enough == half == 0
    counts[:2, 3] *= 3  # a table that names an expert three times for a token
    assert design_effects(counts, tokens, 1)[3] is None
    # One document a source: the variance between sources stands in.
    assert design_effects(counts, tokens, 2) == design_effects(counts[[0, 2, 1, 3]], tokens[[0, 2, 1, 3]], 1)


def test_merged_evidence_has_the_same_effect() -> None:
    records = [record(i, 300, False) for i in range(5)]
    at_once = collect(records).activations("layers.1.gate").load
    merged = collect(records[:2])
    merged.merge(collect(records[2:]))
    assert at_once == merged.activations("layers.1.gate").load
    assert all(effect > 0 for effect in at_once.design_effect)
    assert LoadStatistic(gate().router, SOURCES).value() is None


def test_results_saved_before_there_were_effects_still_load() -> None:
    load = collect([record(0, 50, False)]).activations("layers.1.gate").load
    old = load.model_dump(exclude={"design_effect"})
    assert Load.model_validate(old).design_effect is None
