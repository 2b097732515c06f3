"""RouterCall: what was seen at one site during one forward pass, and how a router's output is read."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class RouterCall:
    """Everything that the hooks saw at one site in one forward pass of its block.

    ``given_experts`` and ``given_weights`` are the arguments that the experts module received: the authority on
    what was used. ``equal`` says whether they equal, bit for bit, what the router returned. Tensors are
    flattened to [rows, width]; rows are batch x sequence, padding included.
    """

    router_calls: int = 0
    experts_calls: int = 0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = None
    logits: Tensor | None = None
    experts: Tensor | None = None
    weights: Tensor | None = None
    given_experts: Tensor | None = None
    given_weights: Tensor | None = None
    equal: bool | None = None
    routed: Tensor | None = None
    shared: Tensor | None = None
    shared_gate: Tensor | None = None
    block_inputs: Tensor | None = None
    block_output: Tensor | None = None
    norm_path: str | None = None
    norm_inputs: Tensor | None = None
    norm_output: Tensor | None = None

    @property
    def gated_shared(self) -> Tensor | None:
        """Output of the shared expert behind its own gate, [rows, hidden]; None where there is none."""
        if self.shared is None or self.shared_gate is None:
            return self.shared
        return self.shared * self.shared_gate.sigmoid()


def rows(tensor: Tensor) -> Tensor:
    """The tensor as [rows, width]."""
    return tensor.detach().reshape(-1, tensor.shape[-1])


def first_float(values: Any) -> Tensor | None:
    """The first floating-point tensor of at least two dimensions among the values."""
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    return None


def read_output(output: Any, logits_index: int | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Split a router's output into (logits, experts, weights), each [rows, width] or None.

    The experts are the first integer tensor, the weights the first floating-point tensor of the same shape. The
    logits stand where transformers declares them, else they are the first other floating-point tensor.
    """
    parts = list(output) if isinstance(output, tuple | list) else [output]
    tensors = [(i, rows(p)) for i, p in enumerate(parts) if isinstance(p, Tensor) and p.ndim >= 2]
    integers = [t for _, t in tensors if t.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)]
    experts = integers[0] if integers else None
    floats = [(i, t) for i, t in tensors if t.is_floating_point()]
    weights_index = None
    if experts is not None:
        same = [i for i, t in floats if t.shape == experts.shape and i != logits_index]
        weights_index = same[0] if same else None
    weights = next((t for i, t in floats if i == weights_index), None)
    others = [(i, t) for i, t in floats if i != weights_index]
    logits = next((t for i, t in others if i == logits_index), others[0][1] if others else None)
    return logits, experts, weights


def read_experts_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """(experts, weights) among the arguments of an experts module, each [rows, k] or None."""
    values = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim >= 2]
    experts = next((rows(v) for v in values if not v.is_floating_point() and v.dtype != torch.bool), None)
    if experts is None:
        return None, None
    floats = [rows(v) for v in values if v.is_floating_point()]
    weights = next((v for v in reversed(floats) if v.shape == experts.shape), None)
    return experts, weights
