"""All questions of a probe: merged = streamed = at once, and what cannot be answered says what is missing."""

import pytest
import torch
from torch import Tensor

from moeprobe.findings.answers import answer_all
from moeprobe.findings.numbers import Interval
from moeprobe.findings.specialisation import Information, RouterSpecialisation
from moeprobe.probes.batches import Batch, Batches
from moeprobe.recipe import ProbeRecipe, SpecialisationRecipe
from moeprobe.records.record import Record
from moeprobe.statistics.answerable import too_few_labels, too_rare, too_short, too_small
from moeprobe.statistics.questions import Questions
from moeprobe.statistics.statistic import Statistic
from tests.statistics.labelled import record, router, texts

E, K, LENGTH = 16, 4, 100


def probe(documents: int = 14, length: int = LENGTH, sources: int = 2) -> Batches:
    ids = torch.randint(0, 6, (documents, length), generator=torch.Generator().manual_seed(0))
    whole = Batch(ids, torch.ones_like(ids), torch.ones_like(ids).bool(), list(range(documents)), [])
    made = texts(documents, sources, language=["english", None] * (documents // 2) + [None] * (documents % 2))
    return Batches([whole], made, ids.numel(), {}, 0, 0, ProbeRecipe(), [], 0)


def one(batches: Batches, first: int, last: int) -> Record:
    """Some whole documents as one record."""
    ids = batches.batches[0].input_ids[first:last]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(batches.documents), ids.shape[1], E, generator=generator)[first:last].flatten(0, 1)
    documents = torch.arange(first, last).repeat_interleave(ids.shape[1])
    chosen = logits.topk(K)
    return record(chosen.indices, documents, ids=ids.flatten(), weights=chosen.values.softmax(-1), logits=logits)


def asked(batches: Batches, *parts: tuple[int, int]) -> Questions:
    questions = Questions(batches, SpecialisationRecipe(), layers=1)
    for part in parts:
        questions.update(one(batches, *part))
    return questions


def states(questions: Questions) -> dict[str, Tensor]:
    (router_questions,) = questions.routers.values()
    parts = vars(router_questions).items()
    return {f"{name}.{part}": tensor for name, s in parts for part, tensor in s.state().items()}


def test_merged_is_streamed_is_at_once() -> None:
    batches = probe()
    streamed = asked(batches, *((i, i + 1) for i in range(14)))
    merged = asked(batches, (0, 5))
    merged.merge(asked(batches, (5, 14)))
    merged.merge(asked(batches))
    at_once = asked(batches, (0, 14))
    for name, tensor in states(streamed).items():
        for other in (merged, at_once):
            if name == "capacity.in_batch":
                continue  # a batch has one capacity: there, what ran together is what is measured
            same = torch.allclose if tensor.is_floating_point() else torch.equal
            assert same(tensor, states(other)[name]), name
        assert tensor.dtype in (torch.int64, torch.float64), name


def test_every_state_is_declared_and_nothing_seen_is_not_zero() -> None:
    questions = asked(probe())
    questions.update(one(probe(), 0, 0))
    (found,) = questions.routers.values()
    for statistic in found.all:
        assert isinstance(statistic, Statistic)
        tensors = {n for n, v in vars(statistic).items() if isinstance(v, Tensor) and not n.startswith("_")}
        assert tensors == {*statistic.added, *statistic.least, *statistic.most}, type(statistic)
        assert statistic.value() is None, type(statistic)


def test_what_cannot_be_answered_says_what_is_missing() -> None:
    assert too_small(torch.tensor([5_000])) == "only one document was read; at least 12 are needed"
    assert too_small(torch.full((12,), 50)) == "only 600 tokens were read; at least 1,000 are needed"
    assert too_small(torch.full((12,), 100)) is None
    assert "no document says its language; at least 12 documents" in str(too_few_labels({}, "language"))
    assert "all 20 labelled documents have the same task (code)" in str(too_few_labels({"code": 20}, "task"))
    assert "only 9 documents say their source, of 3 kinds" in str(too_few_labels({"a": 4, "b": 4, "c": 1}, "source"))
    assert "only 20 documents" in str(too_few_labels({"a": 18, "b": 2}, "source"))
    assert too_few_labels({"a": 6, "b": 6}, "source") is None
    assert "about 6,400 tokens of such text are needed" in str(too_rare(torch.tensor([60, 20, 20]), 1_280))
    assert too_rare(torch.tensor([300, 128, 2]), 128) is None
    assert "at least two token ids" in str(too_rare(torch.tensor([300]), 128))
    assert "at most 1 tokens long" in str(too_short(torch.zeros(2_000, dtype=torch.int64), torch.ones(2_000)))
    assert too_short(torch.tensor([0] * 128 + [1] * 128), torch.full((128,), 2)) is None


def test_too_few_documents_leave_every_question_open() -> None:
    batches = probe(documents=1, length=2_000)
    questions = asked(batches, (0, 1))
    said = questions._router("layers.1.gate", str)
    assert said is not None
    assert said.information == {}
    assert said.tokens is None
    assert said.repeats is not None
    whole = answer_all([(router(E, K), said)], questions._facts.unanswered)
    assert {answer.verdict for answer in whole} == {"not answered"}
    assert whole[0].sentence == "only one document was read; at least 12 are needed"


def information(plugin: float, *, bound: float = 0.1, possible: float = 1.0) -> Information:
    return Information(
        labels=3, documents=40, tokens=5_000, plugin=plugin, null_mean=0.05, null_spread=0.01, bound=bound, bias=0.05,
        excess=Interval(value=plugin - 0.05), entropy=2.0, possible=possible,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("plugins", "verdict", "words"),
    [
        ([0.45, 0.65, 0.08], "yes", "20 % of routing entropy (median; 1.5 % to 30 %), beyond chance in 2 of 3 layers"),
        ([0.06, 0.08], "no", "1.0 % of routing entropy (median; 0.5 % to 1.5 %), beyond chance in none of 2 layers"),
        ([1.0, 1.0], "total", "48 % of routing entropy (median; 48 % to 48 %), beyond chance in all 2 layers"),
    ],
)
def test_verdicts(plugins: list[float], verdict: str, words: str) -> None:
    layers = [(router(E, K), RouterSpecialisation(information={"source": information(p)})) for p in plugins]
    (answer,) = [a for a in answer_all(layers, {}) if a.question == "source"]
    assert (answer.verdict, answer.sentence) == (verdict, words)


def test_a_slight_effect_and_hash_layers() -> None:
    slight = information(0.06, bound=0.055)
    hashed = router(E, K, kind="hash")
    layers = [
        (hashed, RouterSpecialisation(information={"token id": information(1.0)})),
        (router(E, K), RouterSpecialisation(information={"token id": slight})),
    ]
    answer = answer_all(layers, {})[0]
    assert answer.verdict == "hardly"
    assert "in the 1 hash layer it is total: a fixed table" in answer.sentence
    broken = [(hashed, RouterSpecialisation(information={"token id": information(0.9)}))]
    assert "should be total, but 1 of them" in answer_all(broken, {})[0].sentence
