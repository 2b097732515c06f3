"""Record: one gate, one batch."""

from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.routers.gate import Gate


@dataclass(frozen=True, eq=False)
class Record:
    """What one router decided in one forward pass; rows are the real tokens, in order.

    Attributes:
        router: facts about the gate.
        logits: [tokens, score columns] float32 as the router returned them, None where it returns none.
        experts: [tokens, k] int64, -1 where a slot is unused or dropped.
        weights: [tokens, k] float32 as the experts received them, 0 in unused slots.
        token_ids: [tokens] int64, None where the forward pass was not given ids.
        positions: [tokens] int64, index of the token in its row.
        documents: [tokens] int64, index of the document; the row of the batch where nobody named documents.
        returned_experts, returned_weights: [tokens, k] what the router returned, where it is not, bit for bit,
            what the experts received; else None.
        misplaced: rows of the whole batch that an expert executed although the router did not choose it for so
            many, where every expert is a module of its own; else None.
        executed: rows of the whole batch that experts executed, 0 where that was not seen.
        gate: the live tensors that recompute the choice.
        inputs: [tokens, hidden] the router's input in the run dtype, if the recording keeps inputs.
        routed, shared, residual: [tokens] float32 L2 norms of the routed output (with a factor on it, if there
            is one), of the gated shared output and of the residual stream before the block; None if unknown.

    """

    router: Router
    logits: Tensor | None
    experts: Tensor
    weights: Tensor
    token_ids: Tensor | None
    positions: Tensor
    documents: Tensor
    gate: Gate
    returned_experts: Tensor | None = None
    returned_weights: Tensor | None = None
    misplaced: int | None = None
    executed: int = 0
    inputs: Tensor | None = None
    routed: Tensor | None = None
    shared: Tensor | None = None
    residual: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of rows."""
        return self.experts.shape[0]

    def select(self, keep: Tensor) -> "Record":
        """The rows where ``keep`` [tokens] bool is true."""
        values, rows = {field.name: getattr(self, field.name) for field in fields(self)}, keep.nonzero().flatten()
        kept: dict[str, Any] = {
            name: value.index_select(0, rows) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **kept)
