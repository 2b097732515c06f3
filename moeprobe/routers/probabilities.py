"""Some routers return probabilities where others return logits (Gemma 4): find the logits behind them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moeprobe.routers.arithmetic import quietly
from moeprobe.routers.routing import rows

_SUM = 1e-2
"""How far a sum of probabilities in 16 bits may be from one."""


def is_probabilities(values: Tensor) -> bool:
    """Whether every row of [rows, columns] is a distribution over the columns."""
    if values.shape[-1] < 2 or not values.numel() or bool((values < 0).any()):
        return False
    return bool(((values.float().sum(dim=-1) - 1).abs() <= _SUM).all())


def logits_behind(
    router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], probabilities: Tensor
) -> Tensor | None:
    """What the softmax inside the router was applied to, [rows, columns]; None where that cannot be seen.

    The router is run once more, unseen, and its softmax watched; only logits whose softmax is, bit for bit, what
    the router returned are taken.
    """
    watch = _Softmax(probabilities)
    try:
        with torch.no_grad(), watch:
            quietly(router, args, kwargs)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return watch.logits


class _Softmax(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._probabilities = probabilities
        self.logits: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name().split(".")[0] in ("aten::_softmax", "aten::softmax") and out.dtype == self._probabilities.dtype:
            found = rows(out)
            if found.shape == self._probabilities.shape and bool(torch.equal(found, self._probabilities)):
                self.logits = rows(args[0])
        return out
