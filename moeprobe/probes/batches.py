"""Batches: documents taken in turn from every source, tokenised, packed by length, padded on the right."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moeprobe.errors import ProbeError
from moeprobe.findings.evidence import Probe
from moeprobe.legible import legible
from moeprobe.probes.texts import Document
from moeprobe.recipe import ProbeRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_PER_TOKEN = 100  # far above any real text: tokenising a whole book to keep 512 tokens takes minutes


@dataclass(frozen=True, eq=False)
class Batch:
    """Documents of similar length.

    Attributes:
        input_ids: [rows, length] int64.
        attention_mask: [rows, length] int64, 0 on padding (on the right).
        counted: [rows, length] bool, the tokens of the text; special tokens (BOS, EOS) and padding are not.
        documents: [rows] index into ``Batches.documents``.
        sources: [rows] the documents' sources.
    """

    input_ids: Tensor
    attention_mask: Tensor
    counted: Tensor
    documents: list[int]
    sources: list[str]


@dataclass(frozen=True)
class _Row:
    """One tokenised document: ids, which of them are text, and whether the text was longer."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]
    truncated: bool

    @property
    def tokens(self) -> int:
        return sum(self.counted)

    def first(self, tokens: int) -> "_Row":
        """The row up to and including its token number ``tokens`` that counts."""
        if tokens >= self.tokens:
            return self
        end = [position for position, counts in enumerate(self.counted) if counts][tokens - 1] + 1
        return _Row(self.ids[:end], self.counted[:end], truncated=True)


@dataclass(frozen=True)
class Batches:
    """The probe as the model will see it.

    ``documents`` are those used, in the order in which they were taken. ``tokens`` are the counted ones;
    ``truncated`` of the documents were cut, ``duplicates`` were left out because the same text came before.
    """

    batches: list[Batch]
    documents: list[Document]
    tokens: int
    tokens_by_source: dict[str, int]
    truncated: int
    duplicates: int
    recipe: ProbeRecipe
    _rows: list[_Row]
    _pad: int

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def take(self, max_tokens: int, max_length: int) -> "Batches":
        """The first documents, again in turn from every source, up to ``max_tokens`` counted tokens.

        At most ``max_length`` of each: many short documents tell more than few long ones, since documents are
        the clusters of every interval. Document indices mean the same documents as here.
        """
        recipe = self.recipe.model_copy(update={"max_tokens": max_tokens, "max_length": max_length})
        rows = (row.first(max_length) for row in self._rows)
        return _pack(zip(self.documents, rows, strict=False), recipe, self._pad, self.duplicates)

    def facts(self, name: str) -> Probe:
        """What was read, for the result."""
        return Probe(
            name=legible(name),
            documents=len(self.documents),
            sources=dict(Counter(document.source for document in self.documents)),
            tokens=self.tokens,
            tokens_by_source=self.tokens_by_source,
            max_length=self.recipe.max_length,
            truncated=self.truncated,
            digest=self._digest(),
        )

    def _digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over every document's token ids."""
        hashed = hashlib.sha256()
        for row in self._rows:
            hashed.update((",".join(map(str, row.ids)) + "\n").encode())
        return hashed.hexdigest()[:16]


def make_batches(
    documents: list[Document],
    tokenizer: "PreTrainedTokenizerBase",
    recipe: ProbeRecipe,
    vocabulary: int | None = None,
) -> Batches:
    """Tokenise whole documents, taken in turn from every source, up to ``recipe.max_tokens`` counted tokens.

    Documents are cut at ``recipe.max_length`` tokens, the last one also where ``max_tokens`` is reached.
    ``vocabulary`` is the number of rows of the model's embedding.

    Raises:
        ProbeError: the texts give no tokens, or token ids that the model does not have.
    """
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.text.strip(), document)
    tokenise = _Tokeniser(tokenizer, recipe.max_length, vocabulary)
    rows = ((document, tokenise(document)) for document in _in_turn(first.values()))
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    if vocabulary is not None and pad >= vocabulary:
        pad = 0  # a padding token added to the tokenizer only; the mask hides whichever stands there
    made = _pack(rows, recipe, pad, len(documents) - len(first))
    if not made.tokens:
        raise ProbeError("The probe texts give no tokens with this tokenizer; check the texts and the tokenizer.")
    return made


def _in_turn(documents: Iterable[Document]) -> Iterator[Document]:
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document)
    for turn in zip_longest(*by_source.values()):
        yield from (document for document in turn if document is not None)


class _Tokeniser:
    """Texts to rows of at most ``max_length`` tokens, special tokens included."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int, vocabulary: int | None) -> None:
        self.tokenizer, self.max_length, self.vocabulary = tokenizer, max_length, vocabulary
        # Not the unknown token: it stands for a piece of the text.
        names = (
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "cls_token_id",
            "sep_token_id",
            "mask_token_id",
        )
        self.special = {getattr(tokenizer, name, None) for name in names} - {None, tokenizer.unk_token_id}

    def __call__(self, document: Document) -> _Row:
        ids, added = self._encode(document.text, self.max_length + 1)
        truncated = len(ids) > self.max_length
        if truncated:
            ids, added = self._encode(document.text, self.max_length)  # again: an EOS keeps its place at the end
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            raise ProbeError(
                f"The tokenizer does not belong to this model: it gives token id {max(ids)}, "
                f"and the model knows {self.vocabulary} tokens; give the right one with --tokenizer."
            )
        counted = tuple(not flag and token not in self.special for token, flag in zip(ids, added, strict=True))
        return _Row(tuple(ids), counted, truncated)

    def _encode(self, text: str, length: int) -> tuple[list[int], list[int]]:
        encoded = self.tokenizer(
            text[: length * _CHARACTERS_PER_TOKEN],
            truncation=True,
            max_length=length,
            return_special_tokens_mask=True,
        )
        return list(encoded["input_ids"]), list(encoded["special_tokens_mask"])


def _pack(rows: Iterable[tuple[Document, _Row]], recipe: ProbeRecipe, pad: int, duplicates: int) -> Batches:
    documents: list[Document] = []
    taken: list[_Row] = []
    tokens: Counter[str] = Counter()
    for document, row in rows if recipe.max_tokens else ():
        cut = row.first(recipe.max_tokens - tokens.total())
        if cut.tokens:
            documents.append(document)
            taken.append(cut)
            tokens[document.source] += cut.tokens
        # A last document of one token could predict nothing, and the next is not even tokenised.
        if recipe.max_tokens - tokens.total() < 2:
            break
    return Batches(
        batches=[_collate(group, taken, documents, pad) for group in _groups(taken, recipe.batch_tokens)],
        documents=documents,
        tokens=tokens.total(),
        tokens_by_source=dict(tokens),
        truncated=sum(row.truncated for row in taken),
        duplicates=duplicates,
        recipe=recipe,
        _rows=taken,
        _pad=pad,
    )


def _groups(rows: list[_Row], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows by length, as many to a group as fit into ``batch_tokens`` with their padding."""
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index].ids)):
        if group and (len(group) + 1) * len(rows[index].ids) > batch_tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _collate(group: list[int], rows: list[_Row], documents: list[Document], pad: int) -> Batch:
    shape = (len(group), max(len(rows[index].ids) for index in group))
    input_ids = torch.full(shape, pad, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    counted = torch.zeros(shape, dtype=torch.bool)
    for place, index in enumerate(group):
        length = len(rows[index].ids)
        input_ids[place, :length] = torch.tensor(rows[index].ids)
        attention_mask[place, :length] = 1
        counted[place, :length] = torch.tensor(rows[index].counted)
    return Batch(input_ids, attention_mask, counted, list(group), [documents[index].source for index in group])
