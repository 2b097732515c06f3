"""Observation: one record with everything that several statistics recompute from it, computed once."""

from functools import cached_property

import torch
from torch import Tensor

from moeprobe.records.record import Record
from moeprobe.statistics.rows import finite_rows

NOISE = 2.0**-8
"""Relative noise on the router's input for the flip rate: one rounding step of bfloat16."""


class Observation:
    """A record seen through its gate. Every property is None where it cannot be computed for this router."""

    def __init__(self, record: Record, seed: int = 0) -> None:
        self.record = record
        self.gate = record.gate
        self._seed = seed

    @cached_property
    def clean(self) -> Tensor:
        """[tokens] bool: rows whose logits and weights are all finite."""
        clean = finite_rows(self.record.weights)
        if self.record.logits is not None:
            clean &= finite_rows(self.record.logits)
        return clean

    @cached_property
    def logits(self) -> Tensor | None:
        """[tokens, columns] float32 logits: recomputed from the input where possible, else as recorded."""
        if self.record.inputs is not None:
            again = self.gate.logits(self.record.inputs)
            if again is not None:
                return again
        return self.record.logits

    @property
    def recomputed(self) -> bool:
        """Whether ``logits`` are a float32 recomputation rather than the router's own numbers."""
        return self.record.inputs is not None and self.gate.weight is not None

    @cached_property
    def scores(self) -> Tensor | None:
        """[tokens, columns] float32 scores."""
        return None if self.logits is None else self.gate.scores(self.logits)

    @cached_property
    def selection(self) -> Tensor | None:
        """[tokens, columns] float32 selection scores, with bias and groups; None for hash routers."""
        if self.scores is None or self.logits is None or self.record.router.kind == "hash":
            return None
        return self.gate.selection(self.scores, self.logits)

    @cached_property
    def chosen(self) -> Tensor | None:
        """[tokens, columns + 1] bool: the experts that the float32 selection scores choose (never the last column)."""
        return None if self._choice is None else self._choice[0]

    @cached_property
    def margin(self) -> Tensor | None:
        """[tokens] float64: the last chosen selection score less the first left out; None where none is left out."""
        return None if self._choice is None else self._choice[1]

    @cached_property
    def rounded(self) -> Tensor | None:
        """[tokens] bool: other experts were used than the float32 selection scores choose."""
        if self.chosen is None:
            return None
        return _unlike(_members(self.record.experts, self.chosen.shape[-1] - 1), self.chosen)

    @cached_property
    def _choice(self) -> tuple[Tensor, Tensor | None] | None:
        """Who is chosen, and the margin. Where those who ran outscore all others, they are: no sort is due."""
        if self.selection is None:
            return None
        k, columns = self.record.router.top_k, self.selection.shape[-1]
        if columns <= k:
            return _members(self.gate.choose(self.selection), columns), None
        members = _members(self.record.experts, columns)
        lowest, highest = _ends(self.selection, members)
        margin = lowest.double() - highest.double()
        unclear = ~((margin > 0) & (members[:, :-1].sum(dim=-1) == k))
        if bool(unclear.any()):
            scores = self.selection[unclear]
            best = scores.topk(k + 1, dim=-1).values.double()
            members[unclear] = _members(self.gate.choose(scores), columns)
            margin[unclear] = best[:, -2] - best[:, -1]
        return members, margin

    @cached_property
    def unbiased(self) -> Tensor | None:
        """[tokens, k] experts without the selection bias; None where there is no bias."""
        if self.scores is None or self.logits is None or self.gate.selection_bias is None:
            return None
        if self.record.router.kind == "hash":
            return None
        return self.gate.choose(self.gate.selection(self.scores, self.logits, biased=False))

    @cached_property
    def noisy(self) -> Tensor | None:
        """[tokens] bool: the float32 choice changes under relative noise on the router's input."""
        if not self.recomputed or self.record.inputs is None or self.chosen is None:
            return None
        noise = torch.randn(self.record.inputs.shape, generator=self.generator(1)).to(self.record.inputs.device)
        shaken = noise.mul_(NOISE).add_(1).mul_(self.record.inputs.float())
        logits = self.gate.logits(shaken)
        scores = None if logits is None else self.gate.scores(logits)
        if logits is None or scores is None:
            return None
        selection = self.gate.selection(scores, logits)
        lowest, highest = _ends(selection, self.chosen)
        changed = ~(lowest > highest)
        if bool(changed.any()):
            again = _members(self.gate.choose(selection[changed]), selection.shape[-1])
            changed[changed.clone()] = _unlike(again, self.chosen[changed])
        return changed

    def generator(self, purpose: int) -> torch.Generator:
        """Random numbers that depend on what is seen, not on the order in which it is seen."""
        first = int(self.record.documents[0]) * 65_537 + int(self.record.positions[0]) if self.record.tokens else 0
        layer = self.record.router.layer or 0
        return torch.Generator().manual_seed(((self._seed * 31 + purpose) * 1_009 + layer) * 1_000_003 + first)


def _members(experts: Tensor, columns: int) -> Tensor:
    """[tokens, columns + 1] bool from experts [tokens, k]; the last column is for whoever is none of the columns."""
    seen = torch.zeros(experts.shape[0], columns + 1, dtype=torch.bool, device=experts.device)
    return seen.scatter_(-1, torch.where(experts < 0, columns, experts.clamp_max(columns)), True)


def _unlike(first: Tensor, second: Tensor) -> Tensor:
    """[tokens] bool: two [tokens, columns + 1] differ."""
    return (first != second).sum(dim=-1) > 0


def _ends(selection: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """[tokens] the lowest selection score of the members, and the highest of the others."""
    inside = members[:, :-1]
    lowest = selection.masked_fill(~inside, float("inf")).amin(dim=-1)
    return lowest, selection.masked_fill(inside, float("-inf")).amax(dim=-1)
