"""Language-model loss per document: the yardstick of every experiment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.probes.batches import Batch

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
        model: a causal language model in eval mode.
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
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for batch in batches:
        rows = max(1, _LOGITS_AT_ONCE // (batch.input_ids.shape[1] * vocabulary))
        for start in range(0, batch.input_ids.shape[0], rows):
            part = slice(start, start + rows)
            ids, mask = batch.input_ids[part].to(device), batch.attention_mask[part].to(device)
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            target = ids[:, 1:]
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target.flatten(), reduction="none")
            counted = batch.counted[part][:, 1:]
            nats.append(loss.reshape(target.shape).double().cpu()[counted])
            documents.append(torch.tensor(batch.documents[part])[:, None].expand_as(counted)[counted])
        tick()
    return TokenLosses(torch.cat(nats), torch.cat(documents))
