"""Turn the corpus into a tokenizer and into rows of token ids."""

from dataclasses import dataclass

import torch
from checkpoint_table import BOS, EOS, LONGEST_ROW, PAD, VOCABULARY
from corpus import KINDS, Corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

HELD_OUT_ROWS_PER_KIND = 24


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the training documents."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((text for kind in KINDS for text in corpus.train[kind]), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, backend.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=LONGEST_ROW,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Rows:
    """The tokens of each kind of text as one stream, for training and held out."""

    train: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]
    bos: int

    @classmethod
    def encode(cls, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> "Rows":
        """Join the documents of each kind, an end token after each."""

        def stream(documents: list[str]) -> Tensor:
            encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
            return torch.tensor([token for ids in encoded for token in (*ids, tokenizer.eos_token_id)])

        return cls(
            train=tuple(stream(corpus.train[kind]) for kind in KINDS),
            held_out=tuple(stream(corpus.held_out[kind]) for kind in KINDS),
            bos=tokenizer.bos_token_id,
        )

    def _row(self, stream: Tensor, start: int, length: int) -> Tensor:
        return torch.cat((torch.tensor([self.bos]), stream[start : start + length - 1]))

    def batch(self, step: int, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw a training batch; the kinds take turns, so all are seen equally."""
        drawn = []
        for row in range(rows):
            stream = self.train[(step * rows + row) % len(KINDS)]
            start = int(torch.randint(len(stream) - length, (), generator=generator))
            drawn.append(self._row(stream, start, length))
        return torch.stack(drawn)

    def held_out_rows(self) -> dict[str, Tensor]:
        """Give equally many held-out rows of each kind."""
        return {
            kind: torch.stack(
                [
                    self._row(stream, start, LONGEST_ROW)
                    for start in range(0, len(stream) - LONGEST_ROW, LONGEST_ROW - 1)
                ][:HELD_OUT_ROWS_PER_KIND]
            )
            for kind, stream in zip(KINDS, self.held_out, strict=True)
        }

    def token_counts(self) -> Tensor:
        """Count tokens in the training mix, each kind weighing the same, as float64."""
        shares = [torch.bincount(stream, minlength=VOCABULARY).double() / len(stream) for stream in self.train]
        return torch.stack(shares).mean(0) * sum(map(len, self.train))

    def unigram_loss(self) -> float:
        """Give the held-out loss of a model that knows only how often each token occurs."""
        smoothed = self.token_counts() + 1
        log_share = (smoothed / smoothed.sum()).log()
        targets = torch.cat([rows[:, 1:].flatten() for rows in self.held_out_rows().values()])
        return -log_share[targets].mean().item()
