"""Token labels: how much the id or the position of a token says about its experts, beside reordered documents."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import Information
from moeprobe.records.record import Record
from moeprobe.statistics.information import describe, mutual_information
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.shuffle import turned_documents
from moeprobe.statistics.slots import slot_entropies, tabulate
from moeprobe.statistics.statistic import Statistic, counts, sums

GROUPS = 31
"""Documents are dealt into this many groups for the bootstrap. A prime: documents come in turn from every source, and
a number that shares a divisor with the number of sources would make groups of a single source."""
SHUFFLES = 16
IDS = 128
"""Token ids that are followed at most, the most frequent ones."""
RANGES = 16
"""Ranges of positions: 0, 1, 2-3, 4-7, ... and all from 2 ** 14 on."""

RowOf = Callable[[Record], Tensor | None]
"""Record to [tokens] int64 row of each token, -1 for a token that does not count; None where it is not known."""


def of_ids(ids: Tensor) -> RowOf:
    """Rows of the token ids ``ids`` [rows], in their order."""
    order = ids.argsort()
    ordered = ids[order]

    def row(record: Record) -> Tensor | None:
        if record.token_ids is None or not ids.numel():
            return None
        given = record.token_ids.cpu()
        place = torch.searchsorted(ordered, given).clamp_max(ids.numel() - 1)
        return torch.where(ordered[place] == given, order[place], -1)

    return row


def position_range(positions: Tensor) -> Tensor:
    """[tokens] range of each position: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, and so on."""
    return torch.frexp(positions.double()).exponent.long().clamp(0, RANGES - 1)


class TokenLabelStatistic(Statistic):
    """Assignments by a label that tokens of one document differ in.

    ``seen`` [groups, rows, columns]; ``shuffled`` [shuffles, rows, columns] with the choices of the counted tokens
    turned in a circle within their document: what the document prefers, and that neighbours are alike, is in the null.

    Args:
        router: facts; its number of score columns is the width.
        row_of: row of each token.
        rows: number of rows.
        documents: number of documents of the probe.
        layers: routers that are judged together.

    """

    added = ("seen", "shuffled", "tokens", "slots", "documents")

    def __init__(
        self,
        router: Router,
        row_of: RowOf,
        rows: int,
        documents: int,
        layers: int,
    ) -> None:
        self._row_of = row_of
        self._layers = layers
        self.seen = counts(GROUPS, rows, router.score_columns)
        self.shuffled = counts(SHUFFLES, rows, router.score_columns)
        self.tokens = counts(rows)
        self.slots = sums(1)
        self.documents = counts(documents)

    def update(self, seen: Observation) -> None:
        """Count one record; it holds whole documents."""
        record = seen.record
        row = self._row_of(record)
        if row is None or not self.tokens.numel():
            return
        counted = row >= 0
        row, experts = row[counted], record.experts.cpu()[counted]
        documents = record.documents.cpu()[counted]
        self.tokens += torch.bincount(row, minlength=self.tokens.numel())
        self.documents += torch.bincount(documents, minlength=self.documents.numel())
        self.slots += slot_entropies(experts).sum()
        groups, rows, columns = self.seen.shape
        joint = (documents % groups) * rows + row
        self.seen += tabulate(joint, experts, torch.Size((groups * rows, columns))).reshape(self.seen.shape)
        for draw in range(self.shuffled.shape[0]):
            given = experts[turned_documents(documents, draw)]
            self.shuffled[draw] += tabulate(row, given, self.shuffled.shape[1:])

    def value(self) -> Information | None:
        """The information; None where nothing, or only one label, was seen."""
        if int((self.tokens > 0).sum()) < 2 or not int(self.seen.sum()):
            return None
        groups = self.seen[self.seen.sum(dim=(1, 2)) > 0].double().numpy()
        flat = groups.reshape(len(groups), -1)
        table = groups.sum(axis=0)
        return describe(
            table,
            mutual_information(self.shuffled.double().numpy()),
            lambda weights: (weights @ flat).reshape(-1, *table.shape),
            len(groups),
            slot_entropy=float(self.slots) / float(np.maximum(table.sum(), 1)),
            documents=int((self.documents > 0).sum()),
            tokens=int(self.tokens.sum()),
            layers=self._layers,
        )
