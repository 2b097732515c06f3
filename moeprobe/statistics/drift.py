"""Drift: the choices of two models at the same router, on the same tokens (docs/science.md A6)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeprobe.findings.drift import BiasDrift, Drift, LoadShift, Renumbering
from moeprobe.findings.numbers import Interval
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.routers.rule import same_set
from moeprobe.statistics.clusters import CLUSTERS
from moeprobe.statistics.intervals import ENDS, MINIMUM_DOCUMENTS, bootstrap, resamples
from moeprobe.statistics.statistic import State, counts, sums

_NOTABLE = 2.0
"""Factor from which a change of an expert's load is kept."""

Ratio = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class DriftStatistic(State):
    """Sums by cluster of documents, [clusters] or [clusters, columns], over the tokens that both models read.

    Args:
        base, tuned: the two gates; same number of columns.
        documents: number of documents of the probe.

    """

    added = (
        "seen", "tokens", "slots", "kept", "same", "margin", "margin_same", "margin_kept", "weight", "weight_change",
        "logit_spread", "logit_change", "nonfinite", "own", "own_same", "base_load", "tuned_load",
    )  # fmt: skip

    def __init__(self, base: Gate, tuned: Gate, documents: int) -> None:
        columns = base.router.score_columns
        self._base, self._tuned = base, tuned
        self.seen = counts(documents)
        self.tokens, self.slots, self.kept, self.same = (counts(CLUSTERS) for _ in range(4))
        self.own, self.own_same = counts(CLUSTERS), counts(CLUSTERS)
        self.margin, self.margin_same, self.margin_kept = sums(CLUSTERS), sums(CLUSTERS), sums(CLUSTERS)
        self.weight, self.weight_change = sums(CLUSTERS), sums(CLUSTERS)
        self.logit_spread, self.logit_change = sums(CLUSTERS), sums(CLUSTERS)
        self.nonfinite = counts(1)
        self.base_load, self.tuned_load = counts(CLUSTERS, columns), counts(CLUSTERS, columns)

    def update(self, base: Record, tuned: Record) -> None:
        """Take in the same tokens of both models, in the same order."""
        documents = base.documents.cpu()
        cluster = documents % CLUSTERS
        first, second = _as_wide(base.experts.cpu(), tuned.experts.cpu())
        same = same_set(first, second)
        kept = ((first.unsqueeze(-1) == second.unsqueeze(-2)).any(dim=-1) & (first >= 0)).sum(dim=-1)
        self.seen += torch.bincount(documents, minlength=self.seen.numel())
        self._add("tokens", cluster, torch.ones_like(cluster))
        self._add("slots", cluster, (first >= 0).sum(dim=-1))
        self._add("kept", cluster, kept)
        self._add("same", cluster, same.long())
        self._count(cluster, first, second)
        self._margins(base, cluster, same, kept)
        self._weights(base, tuned, cluster)
        self._logits(base, tuned, cluster)
        self._own(tuned, cluster)

    def _add(self, name: str, cluster: Tensor, values: Tensor) -> None:
        state = getattr(self, name)
        state.index_add_(0, cluster, values.to(state.dtype))

    def _count(self, cluster: Tensor, first: Tensor, second: Tensor) -> None:
        columns = self.base_load.shape[1]
        for table, experts in ((self.base_load, first), (self.tuned_load, second)):
            used = (experts >= 0) & (experts < columns)
            flat = (cluster.unsqueeze(-1) * columns + experts)[used]
            table += torch.bincount(flat, minlength=table.numel()).reshape(table.shape)

    def _margins(self, base: Record, cluster: Tensor, same: Tensor, kept: Tensor) -> None:
        """The gap at the base's k boundary in units of the spread of its scores, as in ``Selection``."""
        k = base.router.top_k
        if base.logits is None or base.router.kind == "hash" or base.logits.shape[-1] <= k:
            return
        scores = self._base.scores(base.logits.cpu())
        if scores is None:
            return
        selection = self._base.selection(scores).double()
        best = selection.topk(k + 1, dim=-1).values
        eligible = torch.where(torch.isfinite(selection), selection, torch.nan)
        spread = (eligible - eligible.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()
        margin = (best[:, k - 1] - best[:, k]) / spread.clamp_min(1e-30)
        usable = torch.isfinite(margin)
        self._add("margin", cluster[usable], margin[usable])
        self._add("margin_same", cluster[usable], margin[usable] * same[usable])
        self._add("margin_kept", cluster[usable], margin[usable] * kept[usable] / k)

    def _weights(self, base: Record, tuned: Record, cluster: Tensor) -> None:
        first, second = self._dense(base), self._dense(tuned)
        usable = torch.isfinite(first).all(dim=-1) & torch.isfinite(second).all(dim=-1)
        self._add("weight", cluster[usable], first[usable].abs().sum(dim=-1))
        self._add("weight_change", cluster[usable], (first - second)[usable].abs().sum(dim=-1))

    def _dense(self, record: Record) -> Tensor:
        """Weights by expert, [tokens, columns] float64."""
        experts, weights = record.experts.cpu(), record.weights.cpu().double()
        columns = self.base_load.shape[1]
        used = (experts >= 0) & (experts < columns)
        dense = torch.zeros(experts.shape[0], columns, dtype=torch.float64)
        return dense.scatter_add_(-1, experts.clamp(0, columns - 1), torch.where(used, weights, 0.0))

    def _logits(self, base: Record, tuned: Record, cluster: Tensor) -> None:
        if base.logits is None or tuned.logits is None or base.logits.shape != tuned.logits.shape:
            return
        first, second = base.logits.cpu().double(), tuned.logits.cpu().double()
        usable = torch.isfinite(first).all(dim=-1) & torch.isfinite(second).all(dim=-1)
        self.nonfinite += int((~usable).sum())
        first, second = first[usable], second[usable]
        change = second - first
        if base.router.score_function in ("softmax", None):
            change = change - change.mean(dim=-1, keepdim=True)
        spread = first - first.mean(dim=-1, keepdim=True)
        self._add("logit_change", cluster[usable], change.square().sum(dim=-1))
        self._add("logit_spread", cluster[usable], spread.square().sum(dim=-1))

    def _own(self, tuned: Record, cluster: Tensor) -> None:
        """Both gates on the tuned model's inputs: what differs then is the gate's own doing."""
        if tuned.inputs is None or tuned.router.kind == "hash":
            return
        chosen = [_choice(gate, tuned.inputs) for gate in (self._base, self._tuned)]
        if chosen[0] is None or chosen[1] is None:
            return
        self._add("own", cluster, torch.ones_like(cluster))
        self._add("own_same", cluster, same_set(*_as_wide(chosen[0], chosen[1])).cpu().long())

    def value(self, rounding: float | None = None, renumbering: Renumbering | None = None) -> Drift | None:
        """The drift in numbers, None where no token was seen; other statistics know the two arguments."""
        if not int(self.tokens.sum()):
            return None
        load = torch.cat([self.base_load, self.tuned_load], dim=-1)
        documents = int((self.seen > 0).sum())
        return Drift(
            tokens=int(self.tokens.sum()),
            documents=documents,
            overlap=self._share(self.kept, self.slots) or Interval(value=float("nan")),
            same_sets=self._share(self.same, self.tokens) or Interval(value=float("nan")),
            firm_sets=self._share(self.margin_same, self.margin),
            firm_overlap=self._share(self.margin_kept, self.margin),
            weight_l1=self._share(self.weight_change, self.weight),
            load_tv=bootstrap(load, documents, total_variation),
            load_tv_floor=sampling_floor(self.base_load),
            logits=self._share(self.logit_change, self.logit_spread, np.sqrt),
            nonfinite=int(self.nonfinite),
            own_sets=self._share(self.own_same, self.own),
            rounding=rounding,
            bias=bias_drift(self._base, self._tuned),
            table_rows=None if self._base.table is None else self._base.table.shape[0],
            table_changed=table_changes(self._base.table, self._tuned.table),
            renumbering=renumbering,
            shifts=load_shifts(self.base_load, self.tuned_load, documents),
        )

    def _share(self, part: Tensor, whole: Tensor, shape: Ratio = lambda ratio: ratio) -> Interval | None:
        """The ratio of two sums with its interval; None where there is nothing to divide by."""
        if float(whole.sum()) <= 0:
            return None
        both = torch.stack([part.double(), whole.double()], dim=-1)

        def ratio(total: NDArray[np.float64]) -> NDArray[np.float64]:
            return shape(total[..., 0] / np.maximum(total[..., 1], 1e-300))

        return bootstrap(both, int((self.seen > 0).sum()), ratio)


def _as_wide(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two [tokens, k] index tensors of different k with as many slots, the spare ones unused (-1)."""
    width = max(first.shape[-1], second.shape[-1])
    return tuple(  # type: ignore[return-value]  # there are two
        torch.nn.functional.pad(experts, (0, width - experts.shape[-1]), value=-1) for experts in (first, second)
    )


def _choice(gate: Gate, inputs: Tensor) -> Tensor | None:
    logits = gate.logits(inputs)
    scores = None if logits is None else gate.scores(logits)
    return None if scores is None else gate.choose(gate.selection(scores))


def total_variation(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the L1 distance of two distributions that stand side by side in the last axis, as counts."""
    first, second = np.split(loads, 2, axis=-1)
    shares = [part / np.maximum(part.sum(axis=-1, keepdims=True), 1e-300) for part in (first, second)]
    distance: NDArray[np.float64] = np.abs(shares[0] - shares[1]).sum(axis=-1) / 2
    return distance


def sampling_floor(load: Tensor) -> float | None:
    """Mean total variation between two samples of documents, as many as there are, from one router's.

    Args:
        load: [clusters, columns] int64 assignments; None is returned where fewer than two clusters are filled.

    """
    data = load[load.sum(dim=-1) > 0].double().numpy()
    if len(data) < 2:
        return None
    pairs = [resamples(len(data), seed) @ data for seed in (1, 2)]
    return float(total_variation(np.concatenate(pairs, axis=-1)).mean())


def load_shifts(base: Tensor, tuned: Tensor, documents: int) -> list[LoadShift]:
    """Experts whose load at least doubled or halved, with the interval of the ratio (half a token added to both)."""
    before, after = (load.sum(dim=0).double().numpy() for load in (base, tuned))
    ratio = (after + 0.5) / (before + 0.5)
    used = (base.sum(dim=-1) > 0).numpy()
    low = high = None
    if documents >= MINIMUM_DOCUMENTS and used.sum() > 1:
        draws = resamples(int(used.sum()))
        sampled = (draws @ tuned.double().numpy()[used] + 0.5) / (draws @ base.double().numpy()[used] + 0.5)
        low, high = np.quantile(sampled, ENDS, axis=0)
    fair = [max(load.sum(), 1.0) / len(load) for load in (before, after)]
    return [
        LoadShift(
            expert=expert,
            base=float(before[expert] / fair[0]),
            tuned=float(after[expert] / fair[1]),
            ratio=Interval(
                value=float(ratio[expert]),
                low=None if low is None else float(low[expert]),
                high=None if high is None else float(high[expert]),
            ),
        )
        for expert in np.flatnonzero((ratio >= _NOTABLE) | (ratio <= 1 / _NOTABLE)).tolist()
    ]


def bias_drift(base: Gate, tuned: Gate) -> BiasDrift | None:
    """Change of the selection bias without its median; a router without a bias has one of zeros.

    None where neither has one, or a value is not finite.
    """
    found = [gate.router.selection_bias for gate in (base, tuned)]
    if found == [None, None]:
        return None
    columns = base.router.score_columns
    values: list[Sequence[float]] = [[0.0] * columns if bias is None else bias.values for bias in found]
    first, second = (np.asarray(bias, dtype=np.float64) for bias in values)
    if first.shape != second.shape or not np.isfinite([first, second]).all():
        return None
    change = np.abs(second - first - np.median(second - first))
    low, high = np.quantile(first, [0.25, 0.75])
    return BiasDrift(largest=float(change.max()), expert=int(change.argmax()), spread=float(high - low))


def table_changes(base: Tensor | None, tuned: Tensor | None) -> int | None:
    """Rows of a hash table [vocabulary, k] that name another set of experts; None where there is no table.

    Rows that only one of the two has belong to a vocabulary that was extended or cut: they change no token of both.
    Rows that named an expert which is gone (-1) have to change.
    """
    if base is None or tuned is None:
        return None
    rows = min(len(base), len(tuned))
    first, second = _as_wide(base[:rows].cpu().long(), tuned[:rows].cpu().long())
    had_to = (base[:rows].cpu() < 0).any(dim=-1) & (second >= 0).any(dim=-1)
    return int((~same_set(first, second) & ~had_to).sum())
