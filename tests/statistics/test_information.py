"""Information about experts: values worked out by hand, no false alarms, true intervals."""

import math

import numpy as np
import pytest
import torch

from moeprobe.statistics.document_labels import DocumentLabelStatistic, LabelledDocuments
from moeprobe.statistics.information import chance_bound, entropy, jackknife_bias, mutual_information
from moeprobe.statistics.shuffle import turned_documents, within_documents
from moeprobe.statistics.slots import slot_entropies
from moeprobe.statistics.token_labels import RANGES, TokenLabelStatistic, of_ids, position_range
from moeprobe.statistics.token_use import token_use
from tests.statistics.labelled import record, router, seen, texts

E, K = 16, 4


def test_mutual_information_by_hand() -> None:
    assert mutual_information(np.array([[5.0, 0.0], [0.0, 5.0]])) == pytest.approx(math.log(2))
    assert mutual_information(np.array([[3.0, 6.0], [1.0, 2.0]])) == pytest.approx(0, abs=1e-12)
    # 0.4 ln(0.4 / 0.25) twice and 0.1 ln(0.1 / 0.25) twice.
    by_hand = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert mutual_information(np.array([[[4.0, 1.0], [1.0, 4.0]]])) == pytest.approx([by_hand])
    assert mutual_information(np.zeros((2, 2))) == 0
    assert entropy(np.array([1.0, 1.0, 2.0])) == pytest.approx(1.5 * math.log(2))
    assert entropy(np.zeros(3)) == 0


def test_slot_entropy_counts_an_expert_that_stands_there_twice() -> None:
    found = slot_entropies(torch.tensor([[0, 1, 2], [0, 1, -1], [5, 5, 5], [1, 1, 2], [-1, -1, -1]]))
    twice = 2 * math.log(1.5) + math.log(3)
    assert found.tolist() == pytest.approx([3 * math.log(3), 2 * math.log(2), 0, twice, 0])


def test_jackknife_bias_by_leaving_each_out() -> None:
    counts = np.random.default_rng(0).integers(1, 9, (5, 3)).astype(float)
    owner = np.array([0, 0, 1, 1, 1])
    hot = (np.arange(2)[:, None] == owner).astype(float)
    whole = mutual_information(hot @ counts)
    expected = 0.0
    for out in range(5):
        keep = np.arange(5) != out
        size = (owner == owner[out]).sum()
        expected += (size - 1) / size * (mutual_information(hot[:, keep] @ counts[keep]) - whole)
    assert jackknife_bias(hot @ counts, counts, owner) == pytest.approx(expected)


def test_the_bound_of_chance_is_exceeded_as_often_as_said() -> None:
    dice = np.random.default_rng(0)
    null = dice.chisquare(30, (4_000, 17))
    beyond = np.mean([row[0] > chance_bound(row[1:], 0.05) for row in null])
    assert 0.035 < beyond < 0.065


def test_reorderings_stay_within_documents_and_ignore_batches() -> None:
    documents = torch.tensor([0] * 5 + [3] * 7 + [1])
    positions = torch.cat([torch.arange(5), torch.arange(7), torch.arange(1)])
    for index in (within_documents(documents, positions, 1), turned_documents(documents, 1)):
        assert sorted(index.tolist()) == list(range(13))
        assert torch.equal(documents[index], documents)
    alone = within_documents(documents[5:12], positions[5:12], 1)
    assert torch.equal(within_documents(documents, positions, 1)[5:12] - 5, alone)
    turned = turned_documents(documents, 1)[5:12] - 5
    assert torch.equal(turned, turned_documents(documents[5:12], 1))
    assert torch.equal((turned - turned[0]) % 7, torch.arange(7))
    assert {int(turned_documents(documents, seed)[5] - 5) for seed in range(60)} == set(range(7))


def test_a_table_of_ids_is_total_and_published_measures_are_as_defined() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(6)])
    ids = torch.randint(0, 6, (40, 50), generator=generator)
    counted = TokenLabelStatistic(router(E, K), of_ids(torch.arange(5)), 5, 40, layers=1)
    for document, row in enumerate(ids):
        counted.update(seen(record(table[row], [document] * 50, ids=row)))
    found = counted.value()
    assert found.total
    assert found.of_possible == pytest.approx(1)
    assert found.beyond_chance
    assert found.tokens == int((ids < 5).sum())
    assert found.labels == 5
    assert found.possible == pytest.approx(found.entropy - math.log(K))
    use = token_use(counted, torch.arange(5), 1, str)
    assert (use.vocabulary, use.ids) == (1.0, 5)
    assert use.spread == pytest.approx(math.sqrt(K / E * (1 / K) ** 2 - 1 / E**2))
    assert use.vocabulary_chance < 0.7
    assert use.spread_chance < use.spread
    for expert, tokens in enumerate(use.top):
        assert all(expert in table[token.id] and token.share == 1 and token.text == str(token.id) for token in tokens)


def noisy(document: int, preference: torch.Tensor, tokens: int = 200) -> torch.Tensor:
    """[tokens, K] choices that drift along the document around what it prefers."""
    generator = torch.Generator().manual_seed(document)
    state, rows = torch.zeros(E), []
    for _ in range(tokens):
        state = 0.9 * state + 0.44 * torch.randn(E, generator=generator)
        rows.append(preference + state)
    return torch.stack(rows).topk(K, dim=-1).indices


def drifting(effect: float) -> tuple[TokenLabelStatistic, TokenLabelStatistic, DocumentLabelStatistic]:
    """56 documents of 8 sources, each with its own taste; only ``effect`` times a taste is the source's."""
    documents = LabelledDocuments.of(texts(56, sources=8))
    ids = TokenLabelStatistic(router(E, K), of_ids(torch.arange(20)), 20, 56, layers=1)
    places = TokenLabelStatistic(router(E, K), lambda one: position_range(one.positions), RANGES, 56, layers=1)
    labels = DocumentLabelStatistic(router(E, K), documents, ["source"], layers=1)
    generator = torch.Generator().manual_seed(7)
    of_source = torch.randn(8, E, generator=generator)
    for document in range(56):
        taste = 0.7 * torch.randn(E, generator=generator) + effect * of_source[document % 8]
        # Ids come in runs, as spaces and digits do.
        row = torch.randint(0, 20, (20,), generator=generator).repeat_interleave(10)
        one = seen(record(noisy(document, taste), [document] * 200, ids=row))
        for statistic in (ids, places, labels):
            statistic.update(one)
    return ids, places, labels


def test_drift_and_taste_are_no_specialisation() -> None:
    """A shuffle of tokens would call all three specialised: neighbours are alike, and so are tokens of a document."""
    ids, places, labels = drifting(0.0)
    for found in (ids.value(), places.value(), labels.value().information["source"]):
        assert found.plugin > 0
        assert not found.beyond_chance
        assert found.excess.low <= 0 <= found.excess.high


def test_what_the_source_prefers_is_found() -> None:
    ids, places, labels = drifting(1.0)
    value = labels.value()
    assert value.information["source"].beyond_chance
    assert value.information["source"].excess.low > 0
    assert not ids.value().beyond_chance
    assert not places.value().beyond_chance
    use = value.labels["source"][0]
    counts = sum(noisy_counts(labels, source=0))
    assert use.share == pytest.approx(float(counts.max()) / 1_400)
    assert use.share > use.chance


def noisy_counts(labels: DocumentLabelStatistic, source: int) -> list[torch.Tensor]:
    return [labels.chosen[cluster] for cluster in range(len(labels.chosen)) if cluster % 8 == source]


def test_ranges_of_positions() -> None:
    assert position_range(torch.tensor([0, 1, 2, 3, 4, 7, 8, 2**14 - 1, 2**14, 2**20])).tolist() == [
        0, 1, 2, 2, 3, 3, 4, 14, 15, 15,
    ]  # fmt: skip


def test_nothing_seen_is_no_value() -> None:
    labelled = LabelledDocuments.of(texts(4))
    assert DocumentLabelStatistic(router(E, K), labelled, ["source"], layers=1).value() is None
    assert TokenLabelStatistic(router(E, K), of_ids(torch.arange(3)), 3, 4, layers=1).value() is None
