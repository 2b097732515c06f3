"""causal: the case of a decoder-only family from its name and the few settings that make it tiny."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.zoo.case import VOCABULARY, Case, Truth
from tests.zoo.truth import experts_call

TINY = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256,
    "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def causal(
    name: str,
    sites: int,
    /,
    *parts: dict[str, Any],
    truth: Callable[[nn.Module], AbstractContextManager[Truth]] = experts_call,
    backends: bool = True,
    **settings: Any,
) -> Case:
    """The case ``family`` or ``family:variant``; ``settings`` win over the ``parts``, and these over ``TINY``."""
    merged: dict[str, Any] = dict(TINY)
    for part in (*parts, settings):
        merged |= part
    return Case(name, partial(_model, name.partition(":")[0], merged), truth, sites, backends=backends)


def _model(family: str, settings: dict[str, Any]) -> nn.Module:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
