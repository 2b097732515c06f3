"""Which layers a config calls routed, for a model type of which no class says it."""

from collections.abc import Mapping
from typing import Any

_KEYS = (
    "num_hidden_layers",
    "first_k_dense_replace",
    "moe_layer_freq",
    "decoder_sparse_step",
    "mlp_only_layers",
    "mlp_layer_types",
)
_MOST = 100_000
"""Layers from which on a config is not believed."""


def routed_layers(text: Mapping[str, Any]) -> list[int] | None:
    """Indices of the routed layers in the words of DeepSeek, Qwen or transformers 5; None for a config of other words.

    Args:
        text: the part of config.json about the language model.

    >>> routed_layers({"num_hidden_layers": 4, "first_k_dense_replace": 1})
    [1, 2, 3]

    """
    layers = text.get("num_hidden_layers")
    if type(layers) is not int or not 0 < layers < _MOST:
        return None
    types = text.get("mlp_layer_types")
    if isinstance(types, list) and len(types) == layers:
        return [layer for layer, kind in enumerate(types) if kind in ("sparse", "moe")]
    first, every = text.get("first_k_dense_replace"), text.get("moe_layer_freq", 1)
    if isinstance(every, list) and len(every) == layers:
        return [layer for layer, routed in enumerate(every) if routed]
    if type(first) is int and type(every) is int and every > 0:
        return [layer for layer in range(first, layers) if layer % every == 0]
    step, dense = text.get("decoder_sparse_step"), text.get("mlp_only_layers")
    if type(step) is int and step > 0 and isinstance(dense, list):
        return [layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0]
    return None


def said_by(text: Mapping[str, Any]) -> str:
    """The keys that say so, with their values where these are short."""
    said = [f"{key} {value}" if type(value := text[key]) is int else key for key in _KEYS if key in text]
    return ", ".join(said)
