"""Outside: what a model has around its decoder layers, the embedding and the output head, and weights that are tied."""

from collections.abc import Mapping
from typing import Any

from moeprobe.errors import StreamError


def refuse_shared(model: Any, inside: Mapping[str, str]) -> None:
    """Do nothing if no tensor of a layer is tied to another one.

    Raises:
        StreamError: one is.

    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = sorted(name for name in {*tied, *tied.values()} if name in inside)
    if shared:
        raise StreamError(f"{type(model).__name__} cannot be streamed: its layers share weights ({shared[0]}).")


def output_head(model: Any, inside: set[str]) -> set[str]:
    """Names of the tensors that only turn hidden states into tokens; routing does not need them."""
    head = model.get_output_embeddings()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    if head is None:
        return set()
    names = {f"{path}.{name}" for path, module in model.named_modules() if module is head for name in head.state_dict()}
    return names - {*tied, *tied.values()} - inside


def embedding_path(model: Any, inside: set[str]) -> str | None:
    """Path of the module that turns tokens into hidden states, where nothing else has its weights."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    try:
        module = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    path = next((path for path, one in model.named_modules() if one is module), "")
    names = {f"{path}.{name}" for name in module.state_dict()} if path else set()
    return path if path and names.isdisjoint({*tied, *tied.values(), *inside}) else None
