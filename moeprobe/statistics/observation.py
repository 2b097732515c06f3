"""Observation: one record with everything that several statistics recompute from it, computed once."""

from dataclasses import replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from moeprobe.records.record import Record
from moeprobe.routers.rule import same_set
from moeprobe.statistics.inputs import InputSums
from moeprobe.statistics.noise import shaken
from moeprobe.statistics.rows import Rows, both, finite_rows
from moeprobe.statistics.tokens import Tokens

_SAMPLE = 32
"""Rows of a record that are recomputed to see whether all need be."""
_SAME = 2.0**-16
"""Of the largest logit: what the order of a float32 sum may change, far below one rounding step of 16 bits."""


class Observation:
    """A record seen through its gate. Every property is None where it cannot be computed for this router.

    Args:
        record: what is seen.
        seed: drives the noise and the shuffles.
        tokens: those of the record, where they are already worked out.

    """

    def __init__(self, record: Record, seed: int = 0, tokens: Tokens | None = None) -> None:
        self.record = record
        self.tokens = tokens or Tokens(record)
        self.gate = record.gate
        self.recomputed = record.inputs is not None and record.gate.weight is not None
        """Whether ``logits`` are a float32 recomputation rather than the router's own numbers."""
        self._seed = seed

    def settle(self) -> Self:
        """Work out all that takes the router's input, and let go of it: the model may write over what is its own."""
        _ = self.logits, self.shaken, self.input_sums
        self.record = replace(self.record, inputs=None)
        return self

    @property
    def held(self) -> int:
        """Bytes of the tensors that it keeps, more or less, once it is settled."""
        tensors = (self.record.experts, self.record.weights, self.record.logits, self.logits, self.shaken)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @cached_property
    def clean(self) -> Rows:
        """Rows whose logits and weights are all finite."""
        return both(self.weighed, self.finite)

    @cached_property
    def weighed(self) -> Rows:
        """Rows whose weights are all finite."""
        return finite_rows(self.record.weights)

    @cached_property
    def finite(self) -> Rows:
        """Rows whose recorded logits are all finite."""
        return None if self.record.logits is None else finite_rows(self.record.logits)

    def slots_within(self, columns: int) -> bool:
        """Whether every slot of every row names one of the first ``columns`` columns."""
        low, high = self._named
        return low >= 0 and high < columns

    @cached_property
    def used(self) -> Rows:
        """Rows of which any slot names an expert: the others were dropped, or skipped by choice."""
        return None if self._named[0] >= 0 else (self.record.experts >= 0).any(dim=-1)

    @cached_property
    def _named(self) -> tuple[int, int]:
        """The lowest and the highest number in the slots; an unused slot is -1."""
        if not self.record.experts.numel():
            return 0, -1
        low, high = torch.stack(torch.aminmax(self.record.experts)).tolist()
        return low, high

    @cached_property
    def logits(self) -> Tensor | None:
        """[tokens, columns] float32 logits: recomputed from the input where possible, else as recorded.

        What a router multiplies in float32 itself is no other number when it is multiplied again: its own logits are
        taken where a sample of the rows, recomputed, shows that.
        """
        return self._computed[0]

    @property
    def rounding(self) -> Tensor | None:
        """[rows, columns] recorded less recomputed logits, of the rows that were recomputed; None where none was."""
        return self._computed[1]

    @cached_property
    def _computed(self) -> tuple[Tensor | None, Tensor | None]:
        native, inputs = self.record.logits, self.record.inputs
        if inputs is None or not self.recomputed:
            return native, None
        arithmetic = self.record.router.arithmetic
        if native is not None and native.numel() and arithmetic is not None and arithmetic.product == "float32":
            some = slice(None, None, max(1, -(-self.record.tokens // _SAMPLE)))
            again = self.gate.logits(inputs[some])
            assert again is not None
            off = native[some] - again
            if float(off.abs().amax()) <= _SAME * float(again.abs().amax()):
                return native, off
        again = self.gate.logits(inputs)
        return again, None if native is None or again is None else native - again

    @cached_property
    def shaken(self) -> Tensor | None:
        """[tokens, columns] float32 logits under relative noise on the input; None for hash routers."""
        inputs = self.record.inputs
        if inputs is None or not self.recomputed or not self.record.tokens or self.record.router.kind == "hash":
            return None
        parts = [self.gate.logits(part) for part in shaken(inputs, self._seed, self.generator(1))]
        return torch.cat([part for part in parts if part is not None])

    @cached_property
    def input_sums(self) -> InputSums | None:
        """Sums over the router's input."""
        return None if self.record.inputs is None else InputSums.of(self.record.inputs)

    @cached_property
    def same_logits(self) -> bool:
        """Whether ``logits`` are, bit for bit, what was recorded."""
        native = self.record.logits
        if native is None or self.logits is None:
            return False
        return native is self.logits or torch.equal(native, self.logits)

    @cached_property
    def scores(self) -> Tensor | None:
        """[tokens, columns] float32 scores."""
        return None if self.logits is None else self.gate.scores(self.logits)

    @cached_property
    def own_scores(self) -> Tensor | None:
        """[tokens, columns] float32 scores of the logits as recorded; None where none were."""
        if self.record.logits is None or self.same_logits:
            return None if self.record.logits is None else self.scores
        return self.gate.scores(self.record.logits)

    @cached_property
    def selection(self) -> Tensor | None:
        """[tokens, columns] float32 selection scores, with bias and groups; None for hash routers."""
        if self.scores is None or self.logits is None or self.record.router.kind == "hash":
            return None
        return self.gate.selection(self.scores, self.logits)

    @property
    def chosen(self) -> Tensor | None:
        """[tokens, k] the experts that the float32 selection scores choose, in any order."""
        return None if self._choice is None else self._choice[0]

    @property
    def margin(self) -> Tensor | None:
        """[tokens] float64: the last chosen selection score less the first left out; None where none is left out."""
        return None if self._choice is None else self._choice[1]

    @property
    def rounded(self) -> Tensor | None:
        """[tokens] bool: other experts were used than the float32 selection scores choose."""
        return None if self._choice is None else self._choice[2]

    @cached_property
    def _choice(self) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """Who is chosen, the margin, and the rows where others ran.

        Where those who ran outscore all others, they are who is chosen: no sort is due.
        """
        if self.selection is None:
            return None
        experts, k, columns = self.record.experts, self.record.router.top_k, self.selection.shape[-1]
        if columns <= k:
            chosen = self.gate.choose(self.selection)
            return chosen, None, _unlike(experts, chosen, columns)
        if experts.shape[-1] != k:
            best = self.selection.topk(k + 1, dim=-1).values.double()
            chosen = self.gate.choose(self.selection)
            return chosen, best[:, -2] - best[:, -1], _unlike(experts, chosen, columns)
        named = experts if self.slots_within(columns) else experts.clamp(0, columns - 1)
        inside, outside = edges(self.selection, named)
        margin = inside.amin(dim=-1).double() - outside.double()
        clear = margin > 0
        if named is not experts:
            clear &= (named == experts).all(dim=-1)
        if not bool((inside[:, :-1] > inside[:, 1:]).all()):  # falling scores are those of distinct experts
            clear &= ~repeated(named)
        rounded = ~clear
        chosen = named
        if bool(rounded.any()):
            unclear = rounded.nonzero().flatten()
            scores = self.selection[unclear]
            best = scores.topk(k + 1, dim=-1).values.double()
            again = self.gate.choose(scores)
            chosen = named.index_copy(0, unclear, again)
            margin[unclear] = best[:, -2] - best[:, -1]
            rounded[unclear] = _unlike(experts[unclear], again, columns)
        return chosen, margin, rounded

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
        if self.shaken is None or self.chosen is None:
            return None
        scores = self.gate.scores(self.shaken)
        if scores is None:
            return None
        selection = self.gate.selection(scores, self.shaken)
        inside, outside = edges(selection, self.chosen)
        changed = ~(inside.amin(dim=-1) > outside)
        unclear = changed.nonzero().flatten()
        if unclear.numel():
            again = self.gate.choose(selection[unclear])
            changed[unclear] = ~same_set(again, self.chosen[unclear])
        return changed

    def generator(self, purpose: int) -> torch.Generator:
        """Random numbers that depend on what is seen, not on the order in which it is seen."""
        first = int(self.record.documents[0]) * 65_537 + int(self.record.positions[0]) if self.record.tokens else 0
        layer = self.record.router.layer or 0
        mixed = ((self._seed * 31 + purpose) * 1_009 + layer) * 1_000_003 + first
        return torch.Generator().manual_seed(mixed % 2**63)


def edges(selection: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
    """Selection scores of ``experts`` [tokens, k], and the highest one [tokens] of all others."""
    outside = selection.clone().scatter_(-1, experts, float("-inf"))
    return selection.gather(-1, experts), outside.amax(dim=-1)


def repeated(experts: Tensor) -> Tensor:
    """[tokens] bool: an expert stands twice in the row."""
    ordered = experts.sort(dim=-1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(dim=-1)


def _unlike(first: Tensor, second: Tensor, columns: int) -> Tensor:
    """[tokens] bool: two [tokens, any] hold other experts; whoever is none of the columns is like all such."""
    return (_members(first, columns) != _members(second, columns)).any(dim=-1)


def _members(experts: Tensor, columns: int) -> Tensor:
    """[tokens, columns + 1] bool from experts [tokens, k]; the last column is for whoever is none of the columns."""
    seen = torch.zeros(experts.shape[0], columns + 1, dtype=torch.bool, device=experts.device)
    return seen.scatter_(-1, torch.where(experts < 0, columns, experts.clamp_max(columns)), True)
