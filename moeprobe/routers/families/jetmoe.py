"""JetMoe: the router returns its choice sorted by expert, and both levels (attention, feed-forward) have one."""

from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.routers.readers import register_router
from moeprobe.routers.routing import Routing


def read(_router: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> Routing:
    """Put (sorted slots, rows, weights, slots of each expert, logits) back into the order of the rows."""
    order, _, gates, sizes, logits = output
    sorted_experts = torch.repeat_interleave(torch.tensor(sizes, device=order.device))
    experts = torch.empty_like(order).scatter_(0, order, sorted_experts)
    weights = torch.empty_like(gates).scatter_(0, order, gates)
    slots = (logits.shape[0], -1)
    return Routing(experts.reshape(slots), weights.detach().reshape(slots), logits.detach())


def executed(args: tuple[Any, ...], _kwargs: dict[str, Any], _inputs: Tensor, routing: Routing) -> bool:
    """The experts are called with how many rows each of them takes."""
    if routing.experts is None:
        return False
    sizes = torch.tensor(args[1])
    return bool(torch.equal(torch.bincount(routing.experts.flatten().cpu(), minlength=len(sizes)), sizes))


register_router("JetMoeTopKGating", read, experts="output_linear", executed=executed)
