"""Tokens: what statistics derive from the documents and ids of a record alone, the same for every router of a pass."""

from functools import cached_property

import torch
from torch import Tensor

from moeprobe.records.record import Record


class Tokens:
    """Documents and ids of the rows of one record, on the CPU; worked out once for all routers that saw them."""

    def __init__(self, record: Record) -> None:
        self._given = record.documents, record.token_ids
        self.documents = record.documents.cpu()
        self._places: tuple[Tensor, Tensor] | None = None

    def are_those_of(self, record: Record) -> bool:
        """Whether the record has these very tensors: a recording gives them to all routers that saw the same rows."""
        documents, token_ids = self._given
        return record.documents is documents and record.token_ids is token_ids

    @cached_property
    def by_document(self) -> tuple[Tensor, Tensor, Tensor]:
        """The documents that are here, [n]; how many tokens each has, [n]; which of them each row is of, [tokens]."""
        found, place, count = torch.unique(self.documents, return_inverse=True, return_counts=True)
        return found, count, place

    @cached_property
    def in_order(self) -> Tensor | None:
        """[tokens] the rows, document by document; None where they stand so."""
        if bool((self.documents[1:] >= self.documents[:-1]).all()):
            return None
        return self.documents.argsort(stable=True)

    def places(self, ids: Tensor) -> Tensor | None:
        """[tokens] where the id of each row stands in the ascending ``ids``, their number where it does not.

        None where the ids of the rows are not known.
        """
        token_ids = self._given[1]
        if token_ids is None or not ids.numel():
            return None
        if self._places is None or self._places[0] is not ids:
            here = token_ids.cpu()
            # numpy's search is some twenty times as fast as torch's on integers.
            place = torch.from_numpy(ids.numpy().searchsorted(here.numpy())).clamp_max(ids.numel() - 1)
            self._places = ids, torch.where(ids[place] == here, place, ids.numel())
        return self._places[1]
