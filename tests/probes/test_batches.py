from typing import Any

import pytest
import torch

from moeprobe.errors import ProbeError
from moeprobe.probes.batches import Batches, make_batches
from moeprobe.probes.texts import Document
from moeprobe.recipe import ProbeRecipe

BOS, EOS = 256, 257


def texts(*lengths: int, source: str = "a") -> list[Document]:
    """Documents of so many characters each; all are different."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        Document((source + letters[number % 26] + letters * 20)[:length], source, f"{source}/{number}")
        for number, length in enumerate(lengths)
    ]


def recipe(max_tokens: int = 10_000, max_length: int = 64, batch_tokens: int = 128) -> ProbeRecipe:
    return ProbeRecipe(max_tokens=max_tokens, max_length=max_length, batch_tokens=batch_tokens)


def counted_in(made: Batches) -> int:
    return sum(int(batch.counted.sum()) for batch in made)


def test_rows_are_the_documents(tokenizer: Any) -> None:
    documents = texts(30, 5, 12)
    made = make_batches(documents, tokenizer, recipe())
    assert made.documents == documents
    seen = []
    for batch in made:
        assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
        assert batch.counted.dtype == torch.bool
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.counted.shape
        for row, index in enumerate(batch.documents):
            ids = batch.input_ids[row]
            length = int(batch.attention_mask[row].sum())
            assert batch.attention_mask[row].tolist() == [1] * length + [0] * (len(ids) - length)
            assert ids[0] == BOS
            assert ids[length - 1] == EOS
            assert (ids[length:] == EOS).all()  # no padding token: EOS stands in for it
            assert tokenizer.decode(ids[batch.counted[row]]) == documents[index].text
            assert batch.sources[row] == documents[index].source
            seen.append(index)
    assert sorted(seen) == [0, 1, 2]
    assert made.tokens == counted_in(made) == 47


def test_special_tokens_inside_a_text_are_not_counted(tokenizer: Any) -> None:
    made = make_batches([Document("ab<s>cd", "a", "1")], tokenizer, recipe())
    assert made.batches[0].counted.tolist() == [[False, True, True, False, True, True, False]]


def test_batches_are_of_similar_length_and_full(tokenizer: Any) -> None:
    made = make_batches(texts(*range(2, 42)), tokenizer, recipe(batch_tokens=100))
    assert all(batch.input_ids.numel() <= 100 for batch in made)
    lengths = [batch.input_ids.shape[1] for batch in made]
    assert lengths == sorted(lengths)
    shortest = [int(batch.attention_mask.sum(1).min()) for batch in made]
    assert all(low > high for low, high in zip(shortest[1:], lengths, strict=False))
    assert len(made) == len(made.batches) < 20


def test_a_document_longer_than_a_batch_has_its_own(tokenizer: Any) -> None:
    made = make_batches(texts(60, 60), tokenizer, recipe(batch_tokens=10))
    assert [batch.input_ids.shape for batch in made] == [(1, 62), (1, 62)]


def test_long_documents_are_cut_with_their_special_tokens(tokenizer: Any) -> None:
    made = make_batches(texts(200, 62, 63), tokenizer, recipe(max_length=64))
    assert made.truncated == 2
    for batch in made:
        assert batch.input_ids.shape[1] == 64
        assert (batch.input_ids[:, -1] == EOS).all()
    assert made.tokens == 3 * 62


def test_sources_take_turns(tokenizer: Any) -> None:
    documents = [*texts(20, 20, 20, 20), *texts(20, 20, source="b"), *texts(20, source="c")]
    made = make_batches(documents, tokenizer, recipe())
    assert [document.source for document in made.documents] == ["a", "b", "c", "a", "b", "a", "a"]
    few = make_batches(documents, tokenizer, recipe(max_tokens=60))
    assert few.tokens_by_source == {"a": 20, "b": 20, "c": 20}


@pytest.mark.parametrize("limit", [1, 19, 20, 21, 22, 50, 79, 80, 81])
def test_never_more_tokens_than_asked(tokenizer: Any, limit: int) -> None:
    made = make_batches(texts(20, 20, 20, 20), tokenizer, recipe(max_tokens=limit))
    assert made.tokens == counted_in(made) == sum(made.tokens_by_source.values())
    # A rest of one token is not worth a document.
    assert made.tokens == (20 if limit == 21 else min(limit, 80))
    assert made.truncated == (limit not in (20, 21, 80, 81))


def test_take_is_the_start_of_the_same(tokenizer: Any) -> None:
    documents = [*texts(20, 30, 25), *texts(40, 10, source="b")]
    made = make_batches(documents, tokenizer, recipe())
    few = made.take(70, 512)
    assert few.tokens == counted_in(few) == 70
    assert few.documents == made.documents[:3]
    assert few.tokens_by_source == {"a": 30, "b": 40}
    assert few.truncated == 1
    everything = made.take(10**6, 512)
    assert everything.documents == made.documents
    assert all(torch.equal(one.input_ids, other.input_ids) for one, other in zip(everything, made, strict=True))
    assert len(made.take(0, 512)) == 0


def test_the_same_twice(tokenizer: Any) -> None:
    documents = [*texts(*range(10, 40)), *texts(*range(10, 40), source="b")]
    one, other = (make_batches(documents, tokenizer, recipe(max_tokens=500)) for _ in range(2))
    assert [batch.documents for batch in one] == [batch.documents for batch in other]
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(one, other, strict=True))


def test_duplicates_are_dropped_and_counted(tokenizer: Any) -> None:
    documents = [
        Document("same text", "a", "1"),
        Document(" same text\n", "b", "2"),
        Document("other", "b", "3"),
    ]
    made = make_batches(documents, tokenizer, recipe())
    assert [document.name for document in made.documents] == ["1", "3"]
    assert made.duplicates == 1
    assert made.take(5, 512).duplicates == 1


def test_facts(tokenizer: Any) -> None:
    made = make_batches([*texts(20, 200), *texts(20, source="b")], tokenizer, recipe())
    facts = made.facts("mine")
    assert facts.name == "mine"
    assert facts.documents == 3
    assert facts.sources == {"a": 2, "b": 1}
    assert facts.tokens == 102
    assert facts.tokens_by_source == {"a": 82, "b": 20}
    assert facts.max_length == 64
    assert facts.truncated == 1


def test_a_tokenizer_of_another_model(tokenizer: Any) -> None:
    with pytest.raises(ProbeError, match="does not belong to this model: it gives token id 257") as caught:
        make_batches(texts(5), tokenizer, recipe(), vocabulary=257)
    assert "\n" not in str(caught.value)
    assert make_batches(texts(5), tokenizer, recipe(), vocabulary=258).tokens == 5


def test_a_padding_token_that_the_model_does_not_have(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tokenizer), "pad_token_id", 300, raising=False)
    batch = make_batches(texts(5, 9), tokenizer, recipe(), vocabulary=258).batches[0]
    assert batch.input_ids[batch.attention_mask == 0].tolist() == [0] * 4


def test_texts_without_tokens(tokenizer: Any) -> None:
    with pytest.raises(ProbeError, match="give no tokens with this tokenizer"):
        make_batches([Document("<s></s>", "a", "1")], tokenizer, recipe())
    with pytest.raises(ProbeError, match="give no tokens"):
        make_batches([], tokenizer, recipe())


def test_a_book_is_not_tokenised_to_its_end(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = type(tokenizer).__call__

    def spy(self: Any, text: str, **options: Any) -> Any:
        seen.append(len(text))
        return encode(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", spy)
    made = make_batches([Document("x" * 10**6, "a", "1"), *texts(9, source="b")], tokenizer, recipe(max_tokens=62))
    assert max(seen) <= 65 * 100
    assert len(made.documents) == 1
    assert len(seen) == 2  # the second document was not touched
