"""Arguments: how a model is called with text, so that every router of it sees the tokens.

An encoder-decoder is given the same text on both sides, the decoder's one token behind: [start, 1st, 2nd, ...]. A
model that fills a canvas is given the text as prefix and as canvas (without one it would draw a random canvas).
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def text_arguments(model: "PreTrainedModel", ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Keyword arguments of ``model``'s forward pass for ids and mask, each [rows, length] int64."""
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if is_encoder_decoder(model):
        arguments["decoder_input_ids"] = behind(ids, _start(model))
        arguments["decoder_attention_mask"] = behind(mask, 1)
    elif fills_canvas(model):
        arguments["decoder_input_ids"] = ids
        arguments["decoder_attention_mask"] = torch.cat([mask, mask], dim=1)
    return arguments


def behind(values: Tensor, first: int) -> Tensor:
    """``values`` [rows, length] one place later, with ``first`` in front: from tokens to the decoder's inputs."""
    return torch.cat([torch.full_like(values[:, :1], first), values[:, :-1]], dim=1)


def is_encoder_decoder(model: "PreTrainedModel") -> bool:
    """Whether the model has a decoder with inputs of its own."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def fills_canvas(model: "PreTrainedModel") -> bool:
    """Whether the model takes tokens to be replaced beside those to be read (block diffusion)."""
    return not is_encoder_decoder(model) and "decoder_input_ids" in inspect.signature(model.forward).parameters


def _start(model: "PreTrainedModel") -> int:
    """The token before the first."""
    settings = (getattr(model, "generation_config", None), model.config)
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        for holder in settings:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0
