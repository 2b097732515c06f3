"""Row labels: which tokens the rows of a router are, and which of them are recorded."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moeprobe.records.scopes import Frame


@dataclass(frozen=True, eq=False)
class RowLabels:
    """Ids, positions and documents of the recorded rows, [tokens] int64 each; ids are None where they are not known.

    ``keep`` are the recorded rows among those that the router saw, [rows] bool; None where it is all of them.
    """

    token_ids: Tensor | None
    positions: Tensor
    documents: Tensor
    keep: Tensor | None

    @classmethod
    def of(
        cls,
        frame: Frame,
        total: int,
        path: str,
        device: torch.device,
        documents: Tensor | None,
        kept: tuple[Tensor | None, Tensor | None],
    ) -> "RowLabels":
        """Explain the ``total`` rows of the router at ``path`` by the batch, as far as it does.

        Args:
            frame: inputs of the model around the router.
            total: rows that the router saw.
            path: of the router.
            device: where the labels are wanted.
            documents: [rows of the batch] the document of each, if they are named.
            kept: [rows, length] bool, the tokens to record instead of the mask's, by the first model's ids and by
                another's.

        """
        shaped = frame.ids if frame.ids is not None else frame.mask
        if frame.virtual and shaped is not None and total == shaped.numel() + frame.virtual * shaped.shape[0]:
            return cls._behind_virtual(frame, shaped, path, device, documents, kept)
        try:
            part = frame.rows_of(total, path)
        except ValueError:
            rows = torch.arange(total, device=device)
            return cls(None, rows, torch.zeros_like(rows), None)
        if part is not None:
            total = part.numel()
        count = 1 if shaped is None or total % shaped.shape[0] else shaped.shape[0]
        length = total // count
        explained = frame.ids is None or frame.ids.numel() == total
        positions = torch.arange(length, device=device).repeat(count) + (frame.cached if frame.mask is None else 0)
        named = torch.arange(count, device=device)
        if documents is not None and documents.shape[0] == count:
            named = documents.to(device)
        row_documents = named.repeat_interleave(length)
        ids = frame.ids
        # A copy: ids belong to the caller, who may write the next ones over them.
        token_ids = ids.reshape(-1).to(device, copy=True) if ids is not None and ids.numel() == total else None
        labelled = kept[0 if frame.first else 1]
        mask = labelled if labelled is not None else frame.mask
        keep = None
        if explained and shaped is not None and mask is not None and mask.shape[0] == count and mask.shape[1] >= length:
            # While generating, the mask also covers the tokens that are in the cache.
            cached = mask.shape[1] - length
            positions = positions + cached
            keep = mask[:, cached:].reshape(-1).bool().to(device)
        if part is not None:
            part = part.to(device)
            token_ids = None if token_ids is None else token_ids[part]
            positions, row_documents, keep = positions[part], row_documents[part], None if keep is None else keep[part]
        if keep is None or bool(keep.all()):
            return cls(token_ids, positions, row_documents, None)
        return cls(None if token_ids is None else token_ids[keep], positions[keep], row_documents[keep], keep)

    @classmethod
    def _behind_virtual(
        cls,
        frame: Frame,
        shaped: Tensor,
        path: str,
        device: torch.device,
        documents: Tensor | None,
        kept: tuple[Tensor | None, Tensor | None],
    ) -> "RowLabels":
        """Labels of the rows of real tokens, where learned ones without ids stand before them."""
        labels = cls.of(replace(frame, virtual=0), shaped.numel(), path, device, documents, kept)
        keep = torch.zeros(shaped.shape[0], frame.virtual + shaped.shape[1], dtype=torch.bool, device=device)
        real = True if labels.keep is None else labels.keep.reshape(shaped.shape)
        keep[:, frame.virtual :] = real
        return cls(labels.token_ids, labels.positions, labels.documents, keep.flatten())
