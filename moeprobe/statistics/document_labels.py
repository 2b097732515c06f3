"""Document labels: how much the source, language or task of a document says about the experts of its tokens.

All tokens of a document carry the same label and resemble each other for many other reasons, so that any two heaps of
documents differ in their routing. The null therefore deals the labels to the documents anew; shuffling tokens would
call every difference between documents a difference between labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import LabelUse, RouterSpecialisation
from moeprobe.probes.texts import Document
from moeprobe.statistics.clusters import CLUSTERS, assign
from moeprobe.statistics.information import Table, describe, jackknife_bias, mutual_information
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.slots import slot_entropies, tabulate
from moeprobe.statistics.statistic import Statistic, counts, sums

LABELS = ("source", "language", "task")
Owner = NDArray[np.int64]
_DEALS = 400
"""Times that the labels are dealt to the documents at random."""


@dataclass(frozen=True, eq=False)
class LabelledDocuments:
    """Documents folded into clusters that mix no labels.

    ``cluster`` [documents] int64, ``members`` [CLUSTERS] documents in each, ``half`` [documents] 0 or 1: every other
    document of its kind; ``labels`` [question][cluster] label or None; ``counts`` [question] documents with a label.
    """

    cluster: Tensor
    members: Tensor
    half: Tensor
    labels: dict[str, list[str | None]]
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, documents: Sequence[Document]) -> "LabelledDocuments":
        """Fold the documents of a probe."""
        kinds = [tuple(getattr(document, question) for question in LABELS) for document in documents]
        order = list(dict.fromkeys(kinds))
        kind = torch.tensor([order.index(one) for one in kinds], dtype=torch.int64)
        cluster = assign(kind)
        half = torch.zeros_like(kind)
        for place in range(len(order)):
            here = torch.nonzero(kind == place).flatten()
            half[here] = torch.arange(here.numel()) % 2
        of_cluster: dict[int, tuple[str | None, ...]] = dict(zip(cluster.tolist(), kinds, strict=True))
        labels = {
            q: [of_cluster[c][i] if c in of_cluster else None for c in range(CLUSTERS)] for i, q in enumerate(LABELS)
        }
        counted: dict[str, dict[str, int]] = {question: {} for question in LABELS}
        for one in kinds:
            for question, label in zip(LABELS, one, strict=True):
                if label is not None:
                    counted[question][label] = counted[question].get(label, 0) + 1
        return cls(cluster, torch.bincount(cluster, minlength=CLUSTERS), half, labels, counted)


class DocumentLabelStatistic(Statistic):
    """Assignments by cluster of documents, [clusters, columns].

    Args:
        router: facts; its number of score columns is the width.
        documents: the probe's.
        questions: those of ``LABELS`` that can be answered.
        layers: routers that are judged together.

    """

    added = ("chosen", "tokens", "slots")

    def __init__(self, router: Router, documents: LabelledDocuments, questions: Sequence[str], layers: int) -> None:
        self._documents = documents
        self._questions = questions
        self._layers = layers
        self.chosen = counts(CLUSTERS, router.score_columns)
        self.tokens = counts(CLUSTERS)
        self.slots = sums(CLUSTERS)

    def update(self, seen: Observation) -> None:
        """Count the assignments of one record."""
        record = seen.record
        cluster = self._documents.cluster[record.documents.cpu()]
        experts = record.experts.cpu()
        self.chosen += tabulate(cluster, experts, self.chosen.shape)
        self.tokens += torch.bincount(cluster, minlength=CLUSTERS)
        self.slots += torch.bincount(cluster, weights=slot_entropies(experts), minlength=CLUSTERS)

    def value(self) -> RouterSpecialisation | None:
        """Information and the use of every label, by question; None where nothing was seen."""
        if not int(self.chosen.sum()):
            return None
        information, uses = {}, {}
        for question in self._questions:
            labels = self._documents.labels[question]
            used = [c for c in range(CLUSTERS) if labels[c] is not None and int(self.tokens[c])]
            names = sorted({label for c in used if (label := labels[c]) is not None})
            if len(names) < 2:
                continue
            chosen = self.chosen[used].double().numpy()
            tokens = self.tokens[used].double().numpy()
            owner = np.array([names.index(str(labels[c])) for c in used])
            hot, dealt = _one_hot(owner, len(names)), _dealt(owner, len(names))
            random = dealt @ chosen
            information[question] = describe(
                hot @ chosen,
                mutual_information(random),
                partial(_resampled, hot, chosen),
                len(used),
                bias=jackknife_bias(hot @ chosen, chosen, owner),
                slot_entropy=float(self.slots[used].sum()) / max(chosen.sum(), 1.0),
                documents=int(self._documents.members[used].sum()),
                tokens=int(tokens.sum()),
                layers=self._layers,
            )
            uses[question] = _uses(names, hot, chosen, tokens, random, dealt @ tokens)
        return RouterSpecialisation(information=information, labels=uses)


def _one_hot(owner: Owner, labels: int) -> Table:
    hot: Table = (np.arange(labels)[:, None] == owner).astype(np.float64)
    return hot


def _resampled(hot: Table, chosen: Table, weights: Table) -> Table:
    """[samples, labels, columns] of clusters that are drawn as often as ``weights`` [samples, clusters] say."""
    drawn: Table = (weights[:, None, :] * hot) @ chosen
    return drawn


def _dealt(owner: Owner, labels: int) -> Table:
    """[deals, labels, clusters]: the labels in random order."""
    random = np.random.default_rng(0)
    return np.stack([_one_hot(random.permutation(owner), labels) for _ in range(_DEALS)])


def _uses(
    names: Sequence[str], hot: Table, chosen: Table, tokens: Table, random: Table, random_tokens: Table
) -> list[LabelUse]:
    """OLMoE's domain specialisation N_iD / N_D (docs/science.md A3) at the strongest expert of each label."""
    size = hot @ tokens
    shares = (hot @ chosen) / size[:, None]
    by_chance = (random / np.maximum(random_tokens, 1)[..., None]).max(axis=-1).mean(axis=0)
    return [
        LabelUse(
            label=name,
            tokens=int(size[place]),
            expert=int(shares[place].argmax()),
            share=float(shares[place].max()),
            chance=float(by_chance[place]),
        )
        for place, name in enumerate(names)
    ]
