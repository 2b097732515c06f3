"""Routing: the choice of a router, and how its output or the experts' arguments are read into one.

What stands in an output is told by shape and values, never by the name of a family:

- an integer tensor [rows, k] and a floating-point tensor of the same shape: experts and weights;
- a one-hot mask [rows, experts] and the weight of the chosen one [rows, 1] (Switch), or the mask of the first
  choice beside sparse combine weights [rows, experts] (NLLB);
- sparse weights [rows, experts] alone, zero where not chosen (noisy top-k gating, Llama 4);
- combine weights [rows, experts, capacity] (GShard).

Routers whose output is none of these have a reader of their own (``routers.readers``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
UNUSED = -1
"""Stands for the expert in a slot that was not used: fewer experts chosen, or dropped by a capacity."""


@dataclass(eq=False)
class Routing:
    """Which experts take which row, with which weight.

    Attributes:
        experts: [rows, k] integers, ``UNUSED`` in slots that were not used; None where the choice is not shown.
        weights: [rows, k] in the dtype that is used, 0 in unused slots; None where they are not shown.
        logits: [rows, columns] as the router returned them; None where it returns none.

    Rows are batch x sequence, padding included.
    """

    experts: Tensor | None = None
    weights: Tensor | None = None
    logits: Tensor | None = None


def rows(tensor: Tensor) -> Tensor:
    """The tensor as [rows, width]."""
    return tensor.detach().reshape(-1, tensor.shape[-1])


def lengths(tensor: Tensor) -> Tensor:
    """L2 norm of each row of [rows, width], float32."""
    found: Tensor = torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float32)
    return found


def first_float(values: Iterable[Any]) -> Tensor | None:
    """The first floating-point tensor of at least two dimensions among the values."""
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    return None


def read_output(output: Any, logits_index: int | None, count: int | None) -> Routing:
    """What a router's output shows.

    Args:
        output: whatever the router returned.
        logits_index: where transformers declares the logits, None where it does not.
        count: rows of the router's input; tells [rows, experts, capacity] from [batch, length, experts].

    """
    parts = _parts(output)
    found = [(i, _shaped(p, count)) for i, p in enumerate(parts) if isinstance(p, Tensor)]
    tensors = [(i, t) for i, t in found if t is not None]
    floats = [(i, t) for i, t in tensors if t.is_floating_point()]
    declared = next((t for i, t in floats if i == logits_index), None)
    columns = declared.shape[-1] if declared is not None else max((t.shape[-1] for _, t in floats), default=0)
    choice = [t for _, t in tensors if not t.is_floating_point()]
    candidates = [t for i, t in floats if i != logits_index]
    if declared is None:
        candidates = _weights_first(candidates, choice)
    routing = read_choice(choice, candidates, columns)
    used = routing.weights if routing.logits is None else routing.logits
    others = [t for i, t in floats if i != logits_index and t is not used]
    logits = declared if declared is not None else next(iter(others), None)
    return Routing(routing.experts, routing.weights, logits)


def read_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], columns: int | None) -> Routing:
    """What the arguments of an experts module show; nothing where no integer or mask is among them.

    Args:
        args, kwargs: as the experts module was called.
        columns: width of the router's logits, which is the width of a mask; None where unknown.

    """
    values = [rows(v) for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim >= 2]
    choice = [v for v in values if not v.is_floating_point()]
    if not choice:
        return Routing()
    # The hidden states come first: a weight of the same shape stands behind them.
    floats = [v for v in reversed(values) if v.is_floating_point()]
    found = read_choice(choice, floats, columns or 0)
    return Routing(found.experts, found.weights)


def read_choice(choice: Sequence[Tensor], floats: Sequence[Tensor], columns: int) -> Routing:
    """Experts and weights from integer or boolean tensors and candidates for the weights, all [rows, width].

    ``Routing.logits`` then holds the dense tensor that the weights were taken from, if they were.
    """
    masks = [c for c in choice if _is_mask(c, columns)]
    indices = [c for c in choice if c.dtype in _INTEGERS and not any(c is mask for mask in masks)]
    if indices:
        weights = next((f for f in floats if f.shape == indices[0].shape), None)
        return Routing(indices[0], weights)
    for mask in masks:
        same = [f for f in floats if f.shape == mask.shape and not bool((f < 0).any())]
        sparse = next((f for f in same if _is_sparse(f)), None)
        if sparse is not None:
            return _slots(sparse, sparse != 0)
        dense = next(iter(same), None)
        single = next((f for f in floats if f.shape == (mask.shape[0], 1)), dense)
        if single is not None:
            return _slots(single * mask.to(single.dtype), mask.bool())
    dense = next((f for f in floats if f.shape[-1] > 1 and _is_sparse(f)), None)
    return Routing() if dense is None else _slots(dense, dense != 0)


def _weights_first(floats: list[Tensor], choice: Sequence[Tensor]) -> list[Tensor]:
    """Where every expert is chosen, logits have the shape of the weights: they come before them, or are negative."""
    shapes = {c.shape for c in choice}
    if sum(f.shape in shapes for f in floats) < 2:
        return floats
    return sorted(floats, key=lambda f: bool((f < 0).any()))


def _parts(output: Any) -> list[Any]:
    """The values of a tuple, a mapping or a dataclass, in order; anything else is one part."""
    if isinstance(output, tuple | list):
        return list(output)
    if isinstance(output, Mapping):
        return list(output.values())
    if is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in fields(output)]
    return [output]


def _shaped(tensor: Tensor, count: int | None) -> Tensor | None:
    """The tensor as [rows, width]: a capacity dimension summed up, a vector as one column; None for what is neither."""
    if tensor.ndim == 1:
        return tensor.detach().unsqueeze(-1) if tensor.shape[0] == count and count > 1 else None
    if tensor.ndim < 2:
        return None
    leading = tensor.shape[:-1].numel()
    if tensor.ndim >= 3 and count is not None and leading != count and tensor.shape[:-2].numel() == count:
        summed = tensor.detach().sum(dim=-1) if tensor.is_floating_point() else tensor.detach().any(dim=-1)
        return rows(summed)
    return rows(tensor)


def _is_mask(tensor: Tensor, columns: int) -> bool:
    """Whether it marks the chosen experts with ones: booleans, or zeros and ones as wide as the logits."""
    if tensor.dtype == torch.bool:
        return True
    if columns <= 2 or tensor.shape[-1] != columns or not tensor.numel():
        return False
    return bool(((tensor == 0) | (tensor == 1)).all()) and bool(tensor.any())


def _is_sparse(tensor: Tensor) -> bool:
    """Whether every row has zeros and nothing negative: weights that are zero where an expert is not chosen."""
    if tensor.shape[-1] < 2 or not tensor.numel():
        return False
    return bool((tensor == 0).any(dim=-1).all()) and not bool((tensor < 0).any())


def _slots(dense: Tensor, chosen: Tensor) -> Routing:
    """Dense weights [rows, columns] as slots, the heaviest first; as many as the fullest row needs."""
    k = max(1, int(chosen.sum(dim=-1).max()) if chosen.numel() else 1)
    order = dense.masked_fill(~chosen, float("-inf")).topk(k, dim=-1).indices
    used = chosen.gather(-1, order)
    weights = dense.gather(-1, order)
    return Routing(order.masked_fill(~used, UNUSED), weights.masked_fill(~used, 0), dense)


def widened(tensor: Tensor, k: int, fill: int) -> Tensor:
    """[rows, less than k] as [rows, k], the new slots filled."""
    missing = k - tensor.shape[-1]
    return tensor if missing <= 0 else torch.nn.functional.pad(tensor, (0, missing), value=fill)
