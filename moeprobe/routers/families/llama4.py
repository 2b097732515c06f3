"""Llama 4: every expert runs on every token, its input multiplied by the score, which is zero where not chosen."""

from typing import Any

from torch import Tensor

from moeprobe.routers.readers import register_router
from moeprobe.routers.routing import UNUSED, Routing


def read(router: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> Routing:
    """(scores [rows, experts], logits [rows, experts]) as slots; a chosen score may round to zero."""
    scores, logits = output[0].detach(), output[1].detach()
    experts = logits.topk(router.top_k, dim=-1).indices
    return Routing(experts, scores.gather(-1, experts), logits)


def executed(args: tuple[Any, ...], _kwargs: dict[str, Any], inputs: Tensor, routing: Routing) -> bool:
    """Whether the input of every expert is the router's input times the recorded weight."""
    if routing.experts is None or routing.weights is None or routing.logits is None or not args:
        return False
    given = args[0].detach().reshape(routing.logits.shape[-1], *inputs.shape)
    used = routing.experts.masked_fill(routing.experts == UNUSED, 0)
    scores = routing.weights.new_zeros(routing.logits.shape).scatter_(-1, used, routing.weights)
    return all(
        bool(((part == inputs * score.unsqueeze(-1)) | part.isnan()).all())
        for part, score in zip(given, scores.unbind(-1), strict=True)
    )


register_router("Llama4Router", read, executed=executed)
