"""Alignment: a base's records under the tuned model's numbering of experts, without the experts that are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate

_ALIKE = 0.5
"""Cosine from which two gate rows, without the mean row, are those of one expert; unrelated ones have 0 +- 0.2."""


def match_rows(base: Tensor | None, tuned: Tensor | None) -> list[int] | None:
    """The base's row to which each row of the tuned gate belongs; None where they cannot be told.

    Args:
        base, tuned: [columns, hidden] the gates' matrices, None where unknown; ``tuned`` may have fewer rows.

    """
    if base is None or tuned is None or base.ndim != 2 or tuned.ndim != 2 or base.shape[1] != tuned.shape[1]:
        return None
    if base.is_meta or tuned.is_meta:
        return None
    first, second = (weight.detach().cpu().double() for weight in (base, tuned))
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()) or len(first) < len(second):
        return None
    mean = first.mean(dim=0)
    rows = [torch.nn.functional.normalize(weight - mean, dim=-1) for weight in (first, second)]
    best = (rows[1] @ rows[0].T).max(dim=-1)
    owners: list[int] = best.indices.tolist()
    return owners if len(set(owners)) == len(owners) and float(best.values.min()) >= _ALIKE else None


@dataclass(frozen=True, eq=False)
class Alignment:
    """``owners`` [columns of the tuned model]: the base's number of each expert; ``base`` and ``tuned`` the gates."""

    owners: Sequence[int]
    base: Gate
    tuned: Gate

    @property
    def pruned(self) -> bool:
        """Whether experts of the base are gone."""
        return len(self.owners) < self.base.router.score_columns

    @property
    def now(self) -> Tensor:
        """[columns of the base] where each expert is found in the tuned model, -1 where it is gone."""
        now = torch.full((self.base.router.score_columns,), -1, dtype=torch.long)
        now[torch.tensor(self.owners)] = torch.arange(len(self.owners))
        return now

    def gate(self) -> Gate:
        """The base's gate with its rows in the tuned model's order."""
        gate, order = self.base, torch.tensor(self.owners)
        aligned = {
            name: tensor.detach().cpu()[order]
            for name in ("weight", "logit_bias", "selection_bias")
            if (tensor := getattr(gate, name)) is not None
        }
        if gate.expert_scale is not None and len(gate.expert_scale) == gate.router.score_columns:
            aligned["expert_scale"] = gate.expert_scale.detach().cpu()[order]
        if gate.table is not None:
            aligned["table"] = self.now[gate.table.cpu().long()]
        return replace(gate, router=self._router(), **aligned)

    def _router(self) -> Router:
        router, tuned = self.base.router, self.tuned.router
        biases = {
            name: bias.model_copy(update={"values": [bias.values[owner] for owner in self.owners]})
            for name in ("selection_bias", "logit_bias")
            if (bias := getattr(router, name)) is not None and len(bias.values) == router.score_columns
        }
        facts = {
            "experts": tuned.experts,
            "score_columns": tuned.score_columns,
            "top_k": min(router.top_k, tuned.score_columns),
            # Groups of which members are gone are not the base's any more.
            "groups": tuned.groups if self.pruned else router.groups,
        }
        return router.model_copy(update=facts | biases)

    def record(self, base: Record, gate: Gate) -> Record:
        """What the base decided, or would have decided without the experts that are gone.

        Weights that the rule does not give are NaN; experts that nobody replaces are -1.
        """
        experts = self.now[base.experts.cpu().clamp_min(0)].where(base.experts.cpu() >= 0, torch.tensor(-1))
        logits = None if base.logits is None else base.logits.cpu()[:, torch.tensor(self.owners)]
        aligned = replace(base, router=gate.router, gate=gate, logits=logits, experts=experts)
        return _without_the_gone(aligned, gate) if self.pruned else aligned


def _without_the_gone(record: Record, gate: Gate) -> Record:
    """The choice among the experts that are left, from the base's own logits."""
    k = gate.router.top_k
    experts, weights = record.experts[:, :k].clone(), torch.full((record.tokens, k), float("nan"))
    score = None if record.logits is None or gate.router.kind == "hash" else gate.scores(record.logits)
    if score is not None:
        affected = (record.experts < 0).any(dim=-1)
        experts[affected] = gate.choose(gate.selection(score, record.logits))[affected]
        weights = _weights(gate, score, experts)
    return replace(record, experts=experts, weights=weights)


def _weights(gate: Gate, score: Tensor, experts: Tensor) -> Tensor:
    router = gate.router
    if router.renormalised is None or router.scaling_factor is None or router.biased_weights:
        return torch.full(experts.shape, float("nan"))
    chosen = score.float().gather(-1, experts.clamp_min(0)) * (experts >= 0)
    if router.renormalised:
        chosen = chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20)
    if gate.expert_scale is not None:
        chosen = chosen * gate.expert_scale.float()[experts.clamp_min(0)]
    return chosen * router.scaling_factor
