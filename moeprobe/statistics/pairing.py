"""Pairing: the drift of every router, fed the tuned model's records in the order in which the base's were saved."""

from collections.abc import Sequence

import torch

from moeprobe.errors import ComparisonError
from moeprobe.findings.drift import Drift
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.records.saved import SavedRecords
from moeprobe.statistics.drift import DriftStatistic
from moeprobe.statistics.expert_order import ExpertOrder

_OTHER_TOKENS = (
    "The base was recorded on other tokens than the tuned model reads; use the same texts, recipe and tokenizer for "
    "both, or give the checkpoints themselves."
)


class Pairing:
    """Give ``update`` to a recording of the tuned model as its sink, and call ``flush`` after every batch.

    Args:
        records: what the base recorded.
        base: evidence of the base's routers.
        paths: paths of the tuned model's routers, in the order of its modules.
        documents: number of documents of the probe.

    Raises:
        ComparisonError: the models do not have the same number of routers.

    """

    def __init__(
        self, records: SavedRecords, base: Sequence[RouterEvidence], paths: Sequence[str], documents: int
    ) -> None:
        if len(base) != len(paths):
            raise ComparisonError(
                f"The base has {len(base)} routers and the tuned model {len(paths)}; only models with the same layers "
                "can be compared."
            )
        # By name where the names agree; a conversion may rename modules, but keeps their order.
        named = {one.router.path: one for one in base}
        aligned = [named[path] for path in paths] if set(named) == set(paths) else list(base)
        self.partners = dict(zip(paths, aligned, strict=True))
        self._records = records
        self._documents = documents
        self._batch = 0
        self._statistics: dict[str, tuple[DriftStatistic, ExpertOrder]] = {}

    def update(self, tuned: Record) -> None:
        """Compare one record with the base's of the same batch.

        Raises:
            ComparisonError: the routers are not of the same shape, or the tokens are not the same.

        """
        partner = self.partners[tuned.router.path].router
        if self._batch == len(self._records):
            raise ComparisonError(_OTHER_TOKENS)
        base = self._records.record(self._batch, partner.path)
        if base is None:
            return
        if not _same_tokens(base, tuned):
            raise ComparisonError(_OTHER_TOKENS)
        if tuned.router.path not in self._statistics:
            check_shape(partner, tuned.router)
            drift = DriftStatistic(base.gate, tuned.gate, self._documents)
            self._statistics[tuned.router.path] = drift, ExpertOrder(base.gate)
        for statistic in self._statistics[tuned.router.path]:
            statistic.update(base, tuned)

    def flush(self) -> None:
        """Go on to the next batch."""
        self._batch += 1

    def finish(self) -> None:
        """Check that the base has recorded nothing that the tuned model did not read.

        Raises:
            ComparisonError: it has.

        """
        if self._batch < len(self._records):
            raise ComparisonError(_OTHER_TOKENS)

    def drift(self, tuned: Sequence[RouterEvidence]) -> dict[str, Drift]:
        """Drift by path of the tuned router; routers that are not verified on both sides are left out."""
        found = {}
        for one in tuned:
            path = one.router.path
            if path not in self._statistics or not (one.router.verified and self.partners[path].router.verified):
                continue
            statistic, order = self._statistics[path]
            drift = statistic.value(_rounding(self.partners[path], one), order.value())
            if drift is not None:
                found[path] = drift
        return found


def check_shape(base: Router, tuned: Router) -> None:
    """Refuse routers between which no expert can be said to be the same.

    Raises:
        ComparisonError: layer, kind, number of experts or top-k differ.

    """
    facts = {"layer": "layer", "kind": "kind", "score_columns": "number of experts", "top_k": "top-k"}
    for field, words in facts.items():
        first, second = getattr(base, field), getattr(tuned, field)
        if first != second:
            raise ComparisonError(
                f"The {words} of {tuned.path} is {second} and {first} in the base; only models with the same layers, "
                "experts and top-k can be compared."
            )


def _same_tokens(base: Record, tuned: Record) -> bool:
    pairs = [(base.positions, tuned.positions), (base.documents, tuned.documents)]
    if base.token_ids is not None and tuned.token_ids is not None:
        pairs.append((base.token_ids, tuned.token_ids))
    return all(torch.equal(first.cpu(), second.cpu()) for first, second in pairs)


def _rounding(base: RouterEvidence, tuned: RouterEvidence) -> float | None:
    """The larger share of sets that a float32 recomputation of the same router changes."""
    seen = [one.activations.selection for one in (base, tuned) if one.activations]
    return max((one.flips_float32 for one in seen if one is not None), default=None)
