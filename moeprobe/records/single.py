"""One expert at a time: the experts' computation, cut so that one expert's weights suffice.

What an expert does is left to transformers. Its loop over experts (``eager``) runs as it is, over weights that are
brought when it asks for them. For ``grouped_mm``, each expert is run as an experts module that has only this one;
only the sorting of rows to experts and the sum over experts are done here, as that implementation does them. In both
cases the result is the same as in memory, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.errors import StreamError

IMPLEMENTATION = "moeprobe-streamed"
"""The name under which transformers finds what stands in for an implementation of its own."""
GROUPED, EAGER = "grouped_mm", "eager"
_TOGETHER = 0.25
"""Share of the rows of one call that an expert takes at once from several; what is made of them takes memory."""
Dispatch = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class Work:
    """The call of one experts module with one batch; ``run_expert`` fills it expert by expert, then it is finished."""

    def __init__(self, module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> None:
        self.module, self._hidden, self._chosen, self._weights = module, hidden, chosen, weights
        count = int(module.num_experts)  # type: ignore[arg-type]
        ids, self._order = torch.sort(chosen.reshape(-1))
        edges = torch.searchsorted(ids, torch.arange(count + 1, device=ids.device)).tolist()
        self._places = [slice(start, stop) for start, stop in pairwise(edges)]
        self._given = hidden.new_zeros(ids.numel(), hidden.shape[1])

    @property
    def size(self) -> int:
        """Rows that all experts take together."""
        return self._order.numel()

    @property
    def ones(self) -> Tensor:
        """[1, 1] one, in the dtype of the weights."""
        return self._weights.new_ones(1, 1)

    def count(self, expert: int) -> int:
        """Rows that an expert takes."""
        place = self._places[expert]
        return int(place.stop - place.start)

    def rows(self, expert: int) -> Tensor:
        """[rows, hidden] what it takes."""
        return self._hidden[self._order[self._places[expert]] // self._chosen.shape[1]]

    def take(self, expert: int, results: Tensor) -> None:
        """Take in what an expert gives back for these rows."""
        self._given[self._places[expert]] = results

    def finish(self) -> Tensor:
        """The output of the whole module, [tokens, hidden]."""
        tokens, slots = self._chosen.shape
        weighted = self._given * self._weights.reshape(-1)[self._order].unsqueeze(-1)
        back = torch.empty_like(self._order)
        back[self._order] = torch.arange(self._order.numel(), device=back.device)
        return weighted[back].view(tokens, slots, -1).sum(dim=1).to(self._hidden.dtype)


def run_expert(works: Sequence[Work], expert: int, tensors: dict[str, Tensor]) -> None:
    """Fill ``works``, calls of the same module, with what the expert of these tensors, each [1, ...], does.

    Several calls run as one, of a module whose experts are all this one: a call for its rows, and another
    for the next. So each has a matrix product of its own, as in memory, and what is left is done at once.
    """
    for group in _groups([work for work in works if work.count(expert)], expert):
        counts = torch.tensor([work.count(expert) for work in group])
        whose = torch.repeat_interleave(torch.arange(len(group)), counts)[:, None]
        rows = torch.cat([work.rows(expert) for work in group])
        same = {name: tensor.expand(len(group), *tensor.shape[1:]) for name, tensor in tensors.items()}
        alone: Any = _view(group[0].module, GROUPED, same)
        alone.num_experts = len(group)
        results = alone.forward(rows, whose.to(rows.device), group[0].ones.expand(len(rows), 1))
        for work, result in zip(group, results.split(counts.tolist()), strict=True):
            work.take(expert, result)


def _groups(works: Sequence[Work], expert: int) -> Iterator[list[Work]]:
    """As many calls at once as have few rows together, beside those that one call has for all experts."""
    group: list[Work] = []
    rows = 0
    for work in works:
        if group and rows + work.count(expert) > _TOGETHER * work.size:
            yield group
            group, rows = [], 0
        group.append(work)
        rows += work.count(expert)
    if group:
        yield group


def run_eager(
    module: nn.Module, bring: Callable[[int], dict[str, Tensor]], hidden: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """The module's own loop over experts; ``bring`` gives the tensors of one expert, each [1, ...]."""
    lazy: dict[str, Any] = {name: _Lazy(name, bring) for name in module._parameters}
    alone = _view(module, EAGER, lazy)
    result: Tensor = alone.forward(hidden, chosen, weights)
    return result


class _Lazy:
    """Stands in for the stacked weights of all experts, of which one can be had at a time."""

    def __init__(self, name: str, bring: Callable[[int], dict[str, Tensor]]) -> None:
        self._name, self._bring = name, bring

    def __getitem__(self, expert: Any) -> Tensor:
        return self._bring(int(expert))[self._name][0]

    def __getattr__(self, name: str) -> Any:
        raise StreamError(
            f"The experts' weights {self._name} are used all at once ({name}), so they cannot be read one by one; "
            "give more --memory."
        )


def _view(module: nn.Module, arithmetic: str, tensors: dict[str, Any]) -> nn.Module:
    """``module`` with other weights and another implementation; the module itself stays as it is."""
    view: Any = module.__new__(type(module))
    view.__dict__ = dict(module.__dict__)
    view._parameters = {name: tensors.get(name) for name in module._parameters}
    view.config = _Config(module.config, arithmetic)
    one: nn.Module = view
    return one


class _Config:
    """The config of an experts module under another experts implementation."""

    def __init__(self, config: Any, arithmetic: str) -> None:
        self._config, self._experts_implementation = config, arithmetic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def arithmetic_of(module: nn.Module) -> str:
    """The implementation by which transformers would compute these experts.

    Raises:
        StreamError: it needs all experts at once.

    """
    found = str(getattr(module.config, "_experts_implementation", None) or EAGER)
    if found not in (GROUPED, EAGER):
        raise StreamError(f"The experts implementation {found} needs all experts at once; give more --memory.")
    return found


@contextmanager
def installed(modules: list[nn.Module], dispatch: Dispatch) -> Iterator[None]:
    """Within this block ``dispatch`` computes these experts."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    configs: dict[int, Any] = {id(module.config): module.config for module in modules}
    before = {key: config._experts_implementation for key, config in configs.items()}
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, dispatch)
    try:
        for config in configs.values():
            config._experts_implementation = IMPLEMENTATION
        yield
    finally:
        for key, config in configs.items():
            config._experts_implementation = before[key]
        ALL_EXPERTS_FUNCTIONS._global_mapping.pop(IMPLEMENTATION, None)
