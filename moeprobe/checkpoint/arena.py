"""Arena: the memory of one expert, used again for the next.

An expert of DeepSeek-V3 is 44 MB in its file and 88 MB in numbers, and is copied a few times while it is converted.
Fresh memory for every copy costs more (the system clears each page) than reading and converting together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LARGE = 2**20


class Arena:
    """Blocks that are handed out in order, again and again."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._next = 0

    def reset(self) -> None:
        """Begin again: what was handed out before may be overwritten from now on."""
        self._next = 0

    def take(self, size: int) -> Tensor:
        """uint8 memory of ``size`` bytes, with anything in it."""
        if self._next == len(self._blocks):
            self._blocks.append(torch.empty(0, dtype=torch.uint8))
        if self._blocks[self._next].numel() < size:
            self._blocks[self._next] = torch.empty(size, dtype=torch.uint8)
        self._next += 1
        return self._blocks[self._next - 1][:size]


class Reusing(TorchFunctionMode):
    """Within this block large results of ``stack``, ``cat`` and ``empty`` on the CPU stand in an arena."""

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self._arena = arena

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in (torch.stack, torch.cat) and "out" not in given and _alike(args[0]):
            tensors = args[0]
            shape = func([tensor.to("meta") for tensor in tensors], *args[1:], **given).shape
            if shape.numel() * tensors[0].element_size() >= _LARGE:
                return func(*args, **given, out=self._tensor(shape, tensors[0].dtype))
        plain = func is torch.empty and set(given) == {"dtype"} and all(isinstance(size, int) for size in args)
        if plain and given["dtype"] is not torch.uint8:  # which is how the arena gets its own blocks
            shape = torch.Size(args)
            if shape.numel() * given["dtype"].itemsize >= _LARGE:
                return self._tensor(shape, given["dtype"])
        return func(*args, **given)

    def _tensor(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return self._arena.take(shape.numel() * dtype.itemsize).view(dtype).view(shape)


def _alike(tensors: Any) -> bool:
    """Whether these are tensors on the CPU of one dtype, for which no gradient is asked."""
    if not isinstance(tensors, Sequence) or not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        return False
    return all(t.dtype == tensors[0].dtype and t.device.type == "cpu" and not t.requires_grad for t in tensors)
