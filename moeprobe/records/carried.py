"""Carried: what a forward pass takes along from one decoder layer, as plain tensors and JSON, and back."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

Json = Any
_PLAIN = (str, int, float, bool, type(None))


class UnkeptError(Exception):
    """Why what a forward pass carries cannot be kept, as the end of a sentence."""


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Json:
    """``value`` as JSON; its tensors go into ``tensors``, contiguous and on the CPU; their names begin with ``name``.

    Raises:
        UnkeptError: it holds something other than tensors, numbers and words in tuples, lists and mappings.

    """
    if isinstance(value, Tensor):
        # A copy: no file holds memory that two of its tensors share.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        dense = value.is_contiguous() or torch.empty_like(value, device="meta").stride() == value.stride()
        stride = list(value.stride() if dense else tensors[name].stride())
        return {"tensor": name, "shape": list(value.shape), "stride": stride, "dtype": str(value.dtype)}
    if isinstance(value, _PLAIN):
        return {"plain": value}
    if type(value) in (tuple, list):
        return {type(value).__name__: [pack(one, f"{name}.{place}", tensors) for place, one in enumerate(value)]}
    if type(value) is dict:
        pairs = enumerate(value.items())
        return {"dict": [[pack(key, "", {}), pack(one, f"{name}.{place}", tensors)] for place, (key, one) in pairs]}
    raise UnkeptError(f"a decoder layer gives a {type(value).__name__}")


def unpack(packed: Json, tensors: Mapping[str, Tensor] | None, device: torch.device) -> Any:
    """What ``pack`` was given; without ``tensors``, the same with NaN (0 for integers) in every tensor."""
    ((kind, inner), *_) = packed.items()
    if kind == "tensor":
        dtype = getattr(torch, packed["dtype"].removeprefix("torch."))
        if tensors is None:
            hollow = torch.full((), float("nan") if dtype.is_floating_point else 0, dtype=dtype, device=device)
            return hollow.expand(packed["shape"])
        # The layout of the memory decides which kernels run, and so the last bits.
        made = torch.empty_strided(packed["shape"], packed["stride"], dtype=dtype, device=device)
        return made.copy_(tensors[inner])
    if kind == "plain":
        return inner
    if kind == "dict":
        return {unpack(key, None, device): unpack(value, tensors, device) for key, value in inner}
    found = [unpack(one, tensors, device) for one in inner]
    return tuple(found) if kind == "tuple" else found


def mappings(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, MutableMapping[Any, Any]]:
    """The arguments of a layer into which layers may write, by name or place.

    Raises:
        UnkeptError: an argument is an object that layers may change in ways nobody can see (a cache, say).

    """
    given = {str(place): one for place, one in enumerate(args)} | dict(kwargs)
    for value in given.values():
        _refuse_objects(value)
    return {name: value for name, value in given.items() if isinstance(value, MutableMapping)}


def _refuse_objects(value: Any) -> None:
    if isinstance(value, tuple | list):
        for one in value:
            _refuse_objects(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            _refuse_objects(one)
    elif not isinstance(value, (Tensor, torch.dtype, torch.device, *_PLAIN)):
        raise UnkeptError(f"its decoder layers are given a {type(value).__name__}, which they may change")
