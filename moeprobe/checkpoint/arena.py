"""Arena: memory of one expert, or of one layer, used again for the next.

An expert of DeepSeek-V3 is 44 MB in its file and 88 MB in numbers, and is copied a few times while it is converted.
Fresh memory for every copy costs more (the system clears each page) than reading and converting together; and where
tensors are read to where they belong, stacking them is no copy at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LARGE = 2**20
_STEP = 64
"""Tensors begin at multiples of so many bytes. Those whose size is one lie behind each other without a gap."""


class Arena:
    """A block of memory that is handed out from its beginning, again and again; it grows to what was asked for."""

    def __init__(self) -> None:
        self._block = _Room(torch.empty(0, dtype=torch.uint8))
        self._wanted = 0
        self._place: _Room | None = None

    def reset(self) -> None:
        """Begin again: what was handed out before may be overwritten from now on."""
        if self._wanted > self._block.size:
            # In two steps: the memory may not suffice for both.
            self._block = _Room(torch.empty(0, dtype=torch.uint8))
            self._block = _Room(torch.empty(self._wanted, dtype=torch.uint8))
        self._block.used = self._wanted = 0

    def take(self, size: int) -> Tensor:
        """uint8 memory of ``size`` bytes, with anything in it."""
        placed = self._place.take(size) if self._place is not None else None
        if placed is not None:
            return placed
        self._wanted += -(-size // _STEP) * _STEP
        found = self._block.take(size)
        return torch.empty(size, dtype=torch.uint8) if found is None else found

    @contextmanager
    def at(self, place: Tensor | None) -> Iterator[None]:
        """Within this block memory is taken from that of ``place`` (contiguous) while there is some left."""
        self._place = None if place is None else _Room(place.reshape(-1).view(torch.uint8))
        try:
            yield
        finally:
            self._place = None


class _Room:
    """Memory of which a part is used."""

    def __init__(self, memory: Tensor) -> None:
        self._memory, self.size, self.used = memory, memory.numel(), 0

    def take(self, size: int) -> Tensor | None:
        start = -(-self.used // _STEP) * _STEP
        if start + size > self.size:
            return None
        self.used = start + size
        return self._memory[start : start + size]


class Reusing(TorchFunctionMode):
    """Within this block large results of ``stack``, ``cat`` and ``empty`` on the CPU stand in an arena.

    Those of ``stack`` and ``cat`` may share the memory of what they are made of, where it already lies in order.
    """

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self._arena = arena

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in (torch.stack, torch.cat) and "out" not in given and _alike(args[0]):
            tensors, dim = args[0], int(given.get("dim", args[1] if len(args) > 1 else 0))
            if func is torch.stack and len(tensors) == 1:
                return tensors[0].unsqueeze(dim)
            joined = _joined(tensors, dim) if func is torch.cat else None
            if joined is not None:
                return joined
            shape = func([tensor.to("meta") for tensor in tensors], dim).shape
            if shape.numel() * tensors[0].element_size() >= _LARGE:
                return func(tensors, dim, out=self._tensor(shape, tensors[0].dtype))
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


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor | None:
    """``torch.cat`` without a copy, for tensors that lie behind each other in memory; None for others."""
    first = tensors[0]
    at = dim + first.ndim if dim < 0 else dim
    rest = (first.shape[:at], first.shape[at + 1 :])
    if prod(rest[0]) != 1:
        return None
    stop = first.data_ptr()
    for tensor in tensors:
        same = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and tensor.is_contiguous()
        if not same or tensor.data_ptr() != stop or (tensor.shape[:at], tensor.shape[at + 1 :]) != rest:
            return None
        stop += tensor.nbytes
    total = sum(tensor.numel() for tensor in tensors)
    length = sum(tensor.shape[at] for tensor in tensors)
    return first.as_strided((total,), (1,)).view(*rest[0], length, *rest[1])
