"""Questions: all that the chapter *What the experts do* needs, fed record by record beside the other statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from moeprobe.findings.answers import answer_all
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import RouterSpecialisation, Specialisation
from moeprobe.probes.batches import Batches
from moeprobe.recipe import SpecialisationRecipe
from moeprobe.records.record import Record
from moeprobe.statistics.answerable import too_few_labels, too_rare, too_short, too_small
from moeprobe.statistics.by_router import ByRouter, StatisticSet
from moeprobe.statistics.capacity import CapacityStatistic
from moeprobe.statistics.coactivation import CoActivationStatistic
from moeprobe.statistics.document_labels import LABELS, DocumentLabelStatistic, LabelledDocuments
from moeprobe.statistics.placement import PlacementStatistic
from moeprobe.statistics.repeats import RepeatStatistic
from moeprobe.statistics.token_labels import IDS, RANGES, TokenLabelStatistic, of_ids, position_range
from moeprobe.statistics.token_use import token_use
from moeprobe.statistics.training_losses import TrainingLossStatistic, pooled_balance_loss


@dataclass(frozen=True, eq=False)
class ProbeFacts:
    """What is known of the probe before the model runs.

    ``lengths`` [documents] counted tokens; ``ids`` those seen often enough, most frequent first; ``unanswered`` why a
    question cannot be answered from these texts, by question.
    """

    documents: LabelledDocuments
    lengths: Tensor
    ids: Tensor
    unanswered: dict[str, str]

    @classmethod
    def of(cls, batches: Batches, occurrences: int) -> Self:
        """Look at the texts."""
        token_ids = torch.cat([batch.input_ids[batch.counted] for batch in batches])
        positions = torch.cat([batch.counted.nonzero()[:, 1] for batch in batches])
        lengths = torch.zeros(len(batches.documents), dtype=torch.int64)
        for batch in batches:
            lengths[torch.tensor(batch.documents)] = batch.counted.sum(dim=1)
        values, counted = torch.unique(token_ids, return_counts=True)
        order = counted.argsort(descending=True, stable=True)
        frequent = values[order[counted[order] >= occurrences][:IDS]]
        documents = LabelledDocuments.of(batches.documents)
        small = too_small(lengths)
        reasons = {question: small or too_few_labels(documents.counts[question], question) for question in LABELS}
        reasons["token id"] = small or too_rare(counted[order], occurrences)
        reasons["position"] = small or too_short(position_range(positions), lengths)
        unanswered = {question: why for question, why in reasons.items() if why}
        return cls(documents, lengths, frequent, unanswered)


class RouterQuestions(StatisticSet):
    """The statistics of one router.

    Args:
        router: facts about the router.
        facts: of the probe.
        recipe: what is asked for.
        layers: routers that are judged together.

    """

    def __init__(self, router: Router, facts: ProbeFacts, recipe: SpecialisationRecipe, layers: int) -> None:
        labels = [question for question in LABELS if question not in facts.unanswered]
        ids = facts.ids if "token id" not in facts.unanswered else facts.ids[:0]
        ranges = RANGES if "position" not in facts.unanswered else 0
        count = facts.lengths.numel()
        self.labels = DocumentLabelStatistic(router, facts.documents, labels, layers)
        self.token_ids = TokenLabelStatistic(router, of_ids(ids), ids.numel(), count, layers)
        self.positions = TokenLabelStatistic(router, _position_range, ranges, count, layers)
        self.coactivation = CoActivationStatistic(router)
        self.repeats = RepeatStatistic(router, facts.documents)
        self.capacity = CapacityStatistic(router, recipe.capacity_factors)
        self.losses = TrainingLossStatistic(router)
        self.placement = PlacementStatistic(router, facts.documents.half, facts.lengths, recipe.devices)


class Questions(ByRouter[RouterQuestions]):
    """The questions of every router that fires; give ``update`` to a recording as a sink.

    Args:
        batches: the probe.
        recipe: what is asked for.
        layers: routers that are judged together.

    """

    def __init__(self, batches: Batches, recipe: SpecialisationRecipe, layers: int) -> None:
        super().__init__()
        self._facts = ProbeFacts.of(batches, recipe.token_occurrences)
        self._recipe = recipe
        self._layers = layers

    def make(self, router: Router) -> RouterQuestions:
        """The questions of a router that has seen nothing."""
        return RouterQuestions(router, self._facts, self._recipe, self._layers)

    def answered(
        self, routers: Sequence[RouterEvidence], text: Callable[[int], str]
    ) -> tuple[list[RouterEvidence], Specialisation]:
        """The routers with what their experts do, and what holds for the model. ``text`` writes a token id."""
        seen = [(one, self._router(one.router.path, text)) for one in routers]
        whole = Specialisation(
            answers=answer_all([(one.router, said) for one, said in seen if said], self._facts.unanswered),
            documents={question: sum(counts.values()) for question, counts in self._facts.documents.counts.items()},
            transformers_balance_loss=pooled_balance_loss([one.losses for one in self.routers.values()]),
        )
        return [one.model_copy(update={"specialisation": said}) for one, said in seen], whole

    def _router(self, path: str, text: Callable[[int], str]) -> RouterSpecialisation | None:
        """What the experts of one router do; None where it saw nothing."""
        found = self.routers.get(path)
        by_label = found.labels.value() if found else None
        if found is None or by_label is None:
            return None
        within = {"token id": found.token_ids.value(), "position": found.positions.value()}
        information = {question: one for question, one in within.items() if one is not None}
        return RouterSpecialisation(
            information=information | by_label.information,
            labels=by_label.labels,
            tokens=token_use(found.token_ids, self._facts.ids, self._recipe.token_occurrences, text),
            coactivation=found.coactivation.value(),
            repeats=found.repeats.value(),
            capacity=found.capacity.value(),
            losses=found.losses.value(),
            placement=found.placement.value(),
        )


def _position_range(record: Record) -> Tensor:
    return position_range(record.positions.cpu())
