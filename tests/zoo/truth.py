"""The common truth: what every experts module is called with, by replacing its forward on the instance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.case import Taken, Truth

RETURN_PROBABILITIES = ("Gemma4TextRouter", "DiffusionGemmaTextRouter")
ROUTER_NAMES = ("gate", "router", "wg")


@contextmanager
def experts_call(model: nn.Module) -> Iterator[Truth]:
    """Index and weights among the arguments of each ``experts`` module; logits are element 0 of its router.

    Where the router returns probabilities, the logits are the output of its ``proj``.
    """
    seen: Truth = {}
    replaced: list[nn.Module] = []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if name.rpartition(".")[2] != "experts":
            continue
        block = name.rpartition(".")[0]
        router_path = next(f"{block}.{r}" for r in ROUTER_NAMES if f"{block}.{r}" in modules)
        returned: list[Any] = []
        router = modules[router_path]
        if type(router).__name__ in RETURN_PROBABILITIES:
            router = router.proj
        replaced += [_keep_output(router, returned), _keep_arguments(module, router_path, returned, seen)]
    try:
        yield seen
    finally:
        for module in replaced:
            del module.forward


def _keep_output(router: nn.Module, returned: list[Any]) -> nn.Module:
    original = router.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        returned.append(output[0] if isinstance(output, tuple) else output)
        return output

    router.forward = forward
    return router


def _keep_arguments(experts: nn.Module, path: str, returned: list[Any], seen: Truth) -> nn.Module:
    original = experts.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        index = next(v for v in values if not v.is_floating_point())
        weights = next(v for v in values[1:] if v.is_floating_point() and v.shape == index.shape)
        seen.setdefault(path, []).append(taken(index, weights, returned[-1]))
        return original(*args, **kwargs)

    experts.forward = forward
    return experts


def taken(index: Tensor, weights: Tensor, logits: Tensor | None) -> Taken:
    """Slots [rows, k] as a dense table [rows, columns]; index -1 is an unused slot."""
    index, weights = index.reshape(-1, index.shape[-1]).long(), weights.reshape(-1, weights.shape[-1]).detach().float()
    flat = None if logits is None else logits.detach().float().reshape(-1, logits.shape[-1]).clone()
    columns = max(int(index.max()) + 1, 0 if flat is None else flat.shape[-1])
    # One column more collects the unused slots and is cut off.
    where = index.where(index >= 0, torch.full_like(index, columns))
    chosen = torch.zeros(index.shape[0], columns + 1, dtype=torch.bool).scatter_(1, where, True)
    dense = torch.zeros(index.shape[0], columns + 1).scatter_(1, where, weights)
    return Taken(chosen[:, :columns], dense[:, :columns], flat)
