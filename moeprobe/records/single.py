"""One expert at a time: the experts' computation, cut so that one expert's weights suffice.

What an expert does is left to transformers: each is run as an experts module that has only this one, by the same
implementation as in memory. Only the sorting of rows to experts and the sum over experts are done here, in the order
in which that implementation does them, so that the result is the same bit for bit.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

IMPLEMENTATION = "moeprobe-streamed"
"""The name under which transformers finds ``Dispatcher.forward``."""
ARITHMETICS = ("grouped_mm", "eager")
"""Implementations of transformers that can be repeated expert by expert."""


class Work:
    """The call of one experts module with one batch; it is filled expert by expert, and then finished."""

    def __init__(self, module: nn.Module, arithmetic: str, hidden: Tensor, chosen: Tensor, weights: Tensor) -> None:
        self._module, self._arithmetic = module, arithmetic
        self._hidden, self._chosen, self._weights = hidden, chosen, weights
        count = int(module.num_experts)  # type: ignore[arg-type]
        if arithmetic == "eager":
            # Slot by slot, as one_hot and where put them in the experts' own loop.
            flat = chosen.t().reshape(-1)
            order = torch.sort(flat, stable=True).indices
            self._rows, self._slots = order % chosen.shape[0], order // chosen.shape[0]
            ids = flat[order]
            self._sum = torch.zeros_like(hidden)
        else:
            ids, self._order = torch.sort(chosen.reshape(-1))
            self._rows = self._order // chosen.shape[1]
            self._sum = hidden.new_zeros(ids.numel(), hidden.shape[1])
        edges = torch.searchsorted(ids, torch.arange(count + 1, device=ids.device)).tolist()
        self._places = [slice(start, stop) for start, stop in pairwise(edges)]

    def add(self, expert: int, alone: nn.Module) -> None:
        """Take in what ``alone``, an experts module with this one expert, does to its rows."""
        place = self._places[expert]
        rows = self._rows[place]
        if not rows.numel():
            return
        given, first = self._hidden[rows], torch.zeros_like(rows)[:, None]
        if self._arithmetic == "eager":
            weights = self._weights[rows, self._slots[place], None]
            self._sum.index_add_(0, rows, alone.forward(given, first, weights))
        else:
            ones = torch.ones(rows.numel(), 1, dtype=self._weights.dtype, device=rows.device)
            self._sum[place] = alone.forward(given, first, ones)

    def finish(self) -> Tensor:
        """The output of the whole module."""
        if self._arithmetic == "eager":
            return self._sum
        tokens, slots = self._chosen.shape
        weighted = self._sum * self._weights.reshape(-1)[self._order].unsqueeze(-1)
        back = torch.empty_like(self._order)
        back[self._order] = torch.arange(self._order.numel(), device=back.device)
        total = weighted[back].view(tokens, slots, -1).sum(dim=1)
        return total.to(self._hidden.dtype)


def alone(module: nn.Module, arithmetic: str, tensors: dict[str, Tensor]) -> nn.Module:
    """``module`` as it would be with one expert, whose tensors [1, ...] are given; the module itself stays as it is."""
    view: Any = module.__new__(type(module))
    view.__dict__ = dict(module.__dict__)
    view._parameters = {**module._parameters, **{name: tensors.get(name) for name in module._parameters}}
    view._buffers = {**module._buffers, **{name: tensors[name] for name in module._buffers if name in tensors}}
    view.num_experts = 1
    view.config = _Config(module.config, arithmetic)
    one: nn.Module = view
    return one


class _Config:
    """The config of an experts module under another experts implementation."""

    def __init__(self, config: Any, arithmetic: str) -> None:
        self._config, self._experts_implementation = config, arithmetic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


Dispatch = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def install(dispatch: Dispatch, model: Any) -> Callable[[], None]:
    """Let ``dispatch`` compute all experts of ``model``; returns what undoes it."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    before = model.config._experts_implementation
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, dispatch)
    model.set_experts_implementation(IMPLEMENTATION)

    def undo() -> None:
        model.set_experts_implementation(before)
        ALL_EXPERTS_FUNCTIONS._global_mapping.pop(IMPLEMENTATION, None)

    return undo
