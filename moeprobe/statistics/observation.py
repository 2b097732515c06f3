"""Observation: one record with everything that several statistics recompute from it, computed once."""

from functools import cached_property

import torch
from torch import Tensor

from moeprobe.records.record import Record
from moeprobe.routers.rule import same_set

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
        clean = torch.isfinite(self.record.weights).all(dim=-1)
        if self.record.logits is not None:
            clean &= torch.isfinite(self.record.logits).all(dim=-1)
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
        """[tokens, k] experts that the float32 selection scores choose."""
        return None if self.selection is None else self.gate.choose(self.selection)

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
        noise = torch.randn(self.record.inputs.shape, generator=self.generator(1))
        shaken = self.record.inputs.float() * (1 + NOISE * noise.to(self.record.inputs.device))
        logits = self.gate.logits(shaken)
        scores = None if logits is None else self.gate.scores(logits)
        if logits is None or scores is None:
            return None
        return ~same_set(self.gate.choose(self.gate.selection(scores, logits)), self.chosen)

    def generator(self, purpose: int) -> torch.Generator:
        """Random numbers that depend on what is seen, not on the order in which it is seen."""
        first = int(self.record.documents[0]) * 65_537 + int(self.record.positions[0]) if self.record.tokens else 0
        layer = self.record.router.layer or 0
        return torch.Generator().manual_seed(((self._seed * 31 + purpose) * 1_009 + layer) * 1_000_003 + first)
