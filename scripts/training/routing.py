"""Watch, start and balance the routers of a transformers Mixture-of-Experts model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Bias updates shrink to nothing over this last part of training, so that the saved
# bias is a settled value and not the last swing of a ±1e-3 oscillation.
DECAY_FRACTION = 0.25


@dataclass(frozen=True)
class Routing:
    """What one router did with one batch."""

    logits: Tensor
    chosen: Tensor

    def counts(self) -> Tensor:
        """Count how often each expert was chosen."""
        return torch.bincount(self.chosen.flatten(), minlength=self.logits.shape[-1])


def _layers_with(model: nn.Module, suffix: str) -> dict[int, Any]:
    """Find the modules whose class name ends so, by the number of their layer."""
    return {
        int(name.split("layers.")[1].split(".")[0]): module
        for name, module in model.named_modules()
        if type(module).__name__.lower().endswith(suffix)
    }


def learned_routers(model: nn.Module) -> dict[int, Any]:
    """Give the routers that choose by score, by layer; hash routers are not among them."""
    return _layers_with(model, "topkrouter")


def hash_routers(model: nn.Module) -> dict[int, Any]:
    """Give the routers that choose by token id, by layer."""
    return _layers_with(model, "hashrouter")


@contextmanager
def watch(model: nn.Module) -> Iterator[dict[int, Routing]]:
    """Collect what each learned router does in the latest forward pass."""
    seen: dict[int, Routing] = {}

    def hook(layer: int) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
            seen[layer] = Routing(logits=output[0], chosen=output[2].detach())

        return keep

    handles = [router.register_forward_hook(hook(layer)) for layer, router in learned_routers(model).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def routed_branch_scaled(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply what the routed experts put out, in every layer, for a while."""
    weights = [module.down_proj for module in _layers_with(model, "experts").values()]
    originals = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)


def hash_table(token_counts: Tensor, experts: int, chosen: int, generator: torch.Generator) -> Tensor:
    """Draw the experts of every token id: distinct in a row, all experts equally often.

    Tokens are dealt in order of frequency, so that an expert's share of the text,
    and not only of the vocabulary, comes out about even.
    """
    rows = len(token_counts)
    per_deal = experts // chosen
    deals = -(-rows // per_deal)
    dealt = torch.stack([torch.randperm(experts, generator=generator) for _ in range(deals)])
    table = torch.empty(rows, chosen, dtype=torch.long)
    table[token_counts.argsort(descending=True)] = dealt[:, : per_deal * chosen].reshape(-1, chosen)[:rows]
    return table


@torch.no_grad()
def start_routers(model: nn.Module, token_counts: Tensor, generator: torch.Generator) -> None:
    """Give every router a start from which it can be trained.

    transformers leaves gate weights at zero or at 0.02 (all experts nearly alike) and
    fills the hash tables with expert 0.
    """
    for router in (*learned_routers(model).values(), *hash_routers(model).values()):
        std = router.hidden_dim**-0.5
        nn.init.trunc_normal_(router.weight, std=std, a=-3 * std, b=3 * std, generator=generator)
    for router in hash_routers(model).values():
        router.tid2eid.copy_(hash_table(token_counts, router.num_experts, router.top_k, generator))


def bias_step(progress: float, step: float = 1e-3) -> float:
    """Size the bias update at this point of training, from 0 to 1."""
    return step * min(1.0, (1.0 - progress) / DECAY_FRACTION)


@torch.no_grad()
def update_selection_bias(bias: Tensor, counts: Tensor, step: float) -> None:
    """Move the bias of overloaded experts down and of underloaded experts up."""
    load = counts.float()
    bias.add_(step * torch.sign(load.mean() - load))


def balance_loss(routing: Routing) -> Tensor:
    """Give the load-balancing loss of one layer; 1 when the load is even.

    Taken layer by layer: the loss in transformers pools all layers first and is
    satisfied when overloads of one layer cancel those of another.
    """
    counts = routing.counts().float()
    share = counts / counts.sum()
    probability = routing.logits.float().softmax(-1).mean(0)
    return len(share) * (share * probability).sum()


def max_violation(counts: Tensor) -> float:
    """Give the load of the busiest expert above the mean, as a share of the mean."""
    load = counts.float()
    return (load.max() / load.mean() - 1).item()
