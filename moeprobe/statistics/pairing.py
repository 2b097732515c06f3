"""Pairing: the drift of every router, fed the tuned model's records in the order in which the base's were saved."""

from collections.abc import Callable, Sequence

import torch

from moeprobe.errors import ComparisonError
from moeprobe.findings.drift import Drift, Renumbering
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Unchecked
from moeprobe.findings.router import Router
from moeprobe.findings.weights import ExpertWeights
from moeprobe.records.record import Record
from moeprobe.records.saved import SavedRecords
from moeprobe.statistics.alignment import Alignment, match_rows
from moeprobe.statistics.drift import DriftStatistic
from moeprobe.statistics.expert_order import ExpertOrder
from moeprobe.statistics.lost_experts import LostExperts
from moeprobe.statistics.rule_changes import changed_experts, fact_changes, follow, same_biases, same_matrix

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
        experts: asked for what the tensors of a tuned router's experts say, while records come.

    Raises:
        ComparisonError: the models do not have the same number of routers.

    """

    def __init__(
        self,
        records: SavedRecords,
        base: Sequence[RouterEvidence],
        paths: Sequence[str],
        documents: int,
        experts: Callable[[Router], ExpertWeights | None] = lambda _: None,
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
        self._experts = experts
        self._pairs: dict[str, _Pair] = {}

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
        path = tuned.router.path
        if path not in self._pairs:
            check_shape(partner, tuned.router)
            self._pairs[path] = self._open(base, tuned)
        self._pairs[path].update(base, tuned)

    def _open(self, base: Record, tuned: Record) -> "_Pair":
        path, before = tuned.router.path, self.partners[tuned.router.path].experts
        columns = (base.router.score_columns, tuned.router.score_columns)
        owners = match_rows(base.gate.weight, tuned.gate.weight)
        if columns[0] != columns[1]:
            if owners is None:
                raise ComparisonError(
                    f"{path} has {columns[1]} experts and the base {columns[0]}, and its gate's rows are not to be "
                    "found among the base's, so it is not known which experts are gone; compare with the model that "
                    "the experts were taken from."
                )
        elif owners is None or not follow(before, self._experts(tuned.router), owners):
            owners = list(range(columns[0]))
        return _Pair(Alignment(owners, base.gate, tuned.gate), self._documents)

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
            if path not in self._pairs or not (one.router.verified and self.partners[path].router.verified):
                continue
            drift = self._pairs[path].value(self.partners[path], one)
            if drift is not None:
                found[path] = drift
        return found

    def unpaired(self) -> list[Unchecked]:
        """Routers of the base that were not recorded, or whose records are not to be trusted."""
        return [
            Unchecked(what=path, why=f"in the base, {partner.router.reason or 'the router could not be verified'}")
            for path, partner in self.partners.items()
            if not partner.router.verified or partner.activations is None
        ]


class _Pair:
    """What is counted of one router and its partner in the base."""

    def __init__(self, alignment: Alignment, documents: int) -> None:
        self._alignment = alignment
        self._moved = list(alignment.owners) != list(range(alignment.base.router.score_columns))
        self._gate = alignment.gate() if self._moved else alignment.base
        self._drift = DriftStatistic(self._gate, alignment.tuned, documents)
        self._order = None if alignment.pruned else ExpertOrder(alignment.base)
        columns = alignment.base.router.score_columns
        self._lost = LostExperts(columns, alignment.owners) if alignment.pruned else None

    def update(self, base: Record, tuned: Record) -> None:
        """Take in the same tokens of both models."""
        self._drift.update(self._alignment.record(base, self._gate) if self._moved else base, tuned)
        if self._order is not None:
            self._order.update(base, tuned)
        if self._lost is not None:
            self._lost.update(base, tuned)

    def value(self, base: RouterEvidence, tuned: RouterEvidence) -> Drift | None:
        """The drift, with what differs before any token is read."""
        owners = self._alignment.owners
        drift = self._drift.value(_rounding(base, tuned), self._renumbering(base.experts, tuned.experts))
        if drift is None:
            return None
        lost = None if self._lost is None else self._lost.value(follow(base.experts, tuned.experts, owners))
        facts = {
            "facts": fact_changes(base.router, tuned.router),
            "gate_same": same_matrix(self._gate, self._alignment.tuned),
            "bias_same": same_biases(self._gate, self._alignment.tuned),
            "experts_changed": changed_experts(base.experts, tuned.experts, owners),
            "pruning": lost,
        }
        return drift.model_copy(update=facts)

    def _renumbering(self, base: ExpertWeights | None, tuned: ExpertWeights | None) -> Renumbering | None:
        found = None if self._order is None else self._order.value()
        if self._order is not None and self._moved:
            now = self._alignment.now.tolist()
            seen = found if found is not None and found.now == now else None
            # Rows and experts were matched by their weights, whatever the tokens show.
            return seen.model_copy(update={"together": True, "aligned": True}) if seen else _by_weights(now)
        if found is None:
            return None
        owners = sorted(range(len(found.now)), key=lambda expert: found.now[expert])
        return found.model_copy(update={"together": follow(base, tuned, owners)})


def _by_weights(now: list[int]) -> Renumbering:
    return Renumbering(now=now, likeness=1.0, likeness_as_is=0.0, together=True, aligned=True)


def check_shape(base: Router, tuned: Router) -> None:
    """Refuse routers between which no expert can be said to be the same.

    Raises:
        ComparisonError: layer, kind or hidden size differ, or there are more experts than in the base.

    """
    facts = {"layer": "layer", "kind": "kind", "hidden_size": "hidden size"}
    for field, words in facts.items():
        first, second = getattr(base, field), getattr(tuned, field)
        if first != second:
            raise ComparisonError(
                f"The {words} of {tuned.path} is {second} and {first} in the base; only models with the same layers "
                "can be compared."
            )
    if tuned.score_columns > base.score_columns:
        raise ComparisonError(
            f"{tuned.path} has {tuned.score_columns} experts and the base {base.score_columns}; a model to which "
            "experts were added cannot be compared with the one before. Give the larger one first, as the base."
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
