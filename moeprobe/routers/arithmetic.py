"""Observe in which dtypes a router computes, by running it once more under a dispatch mode."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moeprobe.findings.router import Arithmetic
from moeprobe.routers.wrapped import unframed

_PRODUCT = {"aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul"}
_SCORE = {"aten::_softmax", "aten::sigmoid", "aten::softplus", "aten::sqrt", "aten::softmax"}
_SELECTION = {"aten::topk", "aten::argmax", "aten::sort"}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, columns: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._columns = columns
        self._sure = False
        self.product: torch.dtype | None = None
        self.score: torch.dtype | None = None
        self.selection: torch.dtype | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        if name in _PRODUCT and not self._sure:
            # An adapter may multiply its own matrices before: the product is the one as wide as the logits.
            self._sure = out.shape[-1] == self._columns
            if self._sure or self.product is None:
                self.product = out.dtype
        elif name in _SCORE:
            self.score = out.dtype
        elif name in _SELECTION:
            # Grouped routers pick groups first and experts last: the last pick is the one that counts.
            picked = next(arg.dtype for arg in args if isinstance(arg, Tensor))
            # Chosen indices may be sorted afterwards, which selects nothing.
            if picked.is_floating_point:
                self.selection = picked
        return out


def short(dtype: torch.dtype | None) -> str | None:
    """``bfloat16`` for ``torch.bfloat16``."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def observe(
    router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], weights: Tensor | None, columns: int | None = None
) -> Arithmetic:
    """Dtypes of the logit product, the score function, the selection and the weights.

    Args:
        router: the router module; it is called once more with the arguments of a recorded call.
        weights: the routing weights as the experts received them.
        columns: width of its logits, None where unknown.

    """
    watch = _Watch(columns)
    with torch.no_grad(), watch:
        quietly(router, args, kwargs)
    return Arithmetic(
        product=short(watch.product),
        score=short(watch.score),
        selection=short(watch.selection),
        weights=None if weights is None else short(weights.dtype),
    )


def quietly(router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a router once more, unseen: neither hooks nor whoever replaced the instance's forward are told.

    It gets copies and runs without the noise of training: some routers shake their input in place. Where
    accelerate keeps the weights elsewhere, its replacement of forward is what brings them.
    """
    router = unframed(router)
    copies = tuple(_copy(value) for value in args)
    named = {name: _copy(value) for name, value in kwargs.items()}
    training = [module for module in router.modules() if module.training]
    router.eval()
    try:
        if hasattr(router, "_hf_hook"):
            return router.forward(*copies, **named)
        return type(router).forward(router, *copies, **named)
    finally:
        for module in training:
            module.training = True


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
