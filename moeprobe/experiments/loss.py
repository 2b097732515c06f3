"""Language-model loss per document: the yardstick of every experiment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.checkpoint.load import embedding_shape
from moeprobe.probes.batches import Batch
from moeprobe.records.arguments import fills_canvas, is_encoder_decoder, text_arguments
from moeprobe.records.eager import eagerly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGITS_AT_ONCE = 2**27
"""Entries of the output matrix computed in one forward pass: rows are split so that it stays below."""


@dataclass(frozen=True)
class DocumentLosses:
    """Summed next-token loss and number of predicted tokens of each document.

    ``nats`` [documents] float64 and ``tokens`` [documents] int64, by document index; 0 tokens where a document
    was not read.
    """

    nats: Tensor
    tokens: Tensor

    @property
    def mean(self) -> float:
        """Nats per token over all documents."""
        return float(self.nats.sum() / self.tokens.sum().clamp_min(1))


@dataclass(frozen=True)
class TokenLosses:
    """Loss of every predicted token: ``nats`` [tokens] float64, ``document`` [tokens] int64, in the order read."""

    nats: Tensor
    document: Tensor

    def by_document(self, documents: int) -> DocumentLosses:
        """The sums over each of ``documents`` documents."""
        nats = torch.zeros(documents, dtype=torch.float64).index_add_(0, self.document, self.nats)
        return DocumentLosses(nats, torch.bincount(self.document, minlength=documents))


def document_losses(
    model: "PreTrainedModel", batches: Sequence[Batch], documents: int, tick: Callable[[], None] = lambda: None
) -> DocumentLosses:
    """Next-token cross entropy of every document.

    Args:
        model: a language model in eval mode (see ``no_loss``).
        batches: token batches; only counted tokens are predicted.
        documents: length of the result.
        tick: called after every batch.

    """
    return token_losses(model, batches, tick).by_document(documents)


def token_losses(
    model: "PreTrainedModel", batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
) -> TokenLosses:
    """Next-token cross entropy of every counted token; the arguments are those of ``document_losses``."""
    nats, documents = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.int64)]
    device = next(model.parameters()).device
    vocabulary, _ = embedding_shape(model)
    first = 0 if is_encoder_decoder(model) else 1  # a decoder's inputs stand one place behind already
    for batch in batches:
        rows = max(1, _LOGITS_AT_ONCE // (batch.input_ids.shape[1] * vocabulary))
        for start in range(0, batch.input_ids.shape[0], rows):
            part = slice(start, start + rows)
            ids, mask = batch.input_ids[part].to(device), batch.attention_mask[part].to(device)
            # What the experiments change, they change through hooks, which compiled code does not call.
            with torch.no_grad(), eagerly():
                logits = model(**text_arguments(model, ids, mask)).logits
            # Learned tokens without ids may stand before the text (prompt tuning).
            logits = logits[:, -ids.shape[1] :]
            target, counted = ids[:, first:], batch.counted[part][:, first:]
            predicted = logits[:, : target.shape[1]].flatten(0, 1).float()
            loss = F.cross_entropy(predicted, target.flatten(), reduction="none")
            nats.append(loss.reshape(target.shape).double().cpu()[counted])
            documents.append(torch.tensor(batch.documents[part])[:, None].expand_as(counted)[counted])
        tick()
    return TokenLosses(torch.cat(nats), torch.cat(documents))


def no_loss(model: "PreTrainedModel") -> str | None:
    """Why the model has no next-token loss; None where it has one."""
    if fills_canvas(model):
        return "the model fills a canvas; it does not predict the next token"
    if model.get_output_embeddings() is None and not model.can_generate():
        return f"{type(model).__name__} does not predict tokens"
    return None


def no_optimum(model: "PreTrainedModel") -> str | None:
    """Why a trained model need not stand at a minimum of its loss on plain text; None where it should."""
    if is_encoder_decoder(model):
        return "an encoder-decoder was not trained to repeat its input, so the size that does it best says nothing"
    return no_loss(model)
