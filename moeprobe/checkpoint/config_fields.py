"""The fields of config.json that say how large a model is and how it routes: what families call them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TOP_K = re.compile(
    r"^(moe_(num_)?(top_?k|k)|top_?k_experts|(moe_)?(num_|n_)?(experts_per_tok(en)?|selected_experts|activated_experts))$"
)
"""How many experts a token is sent to."""
EXPERTS = re.compile(r"^(moe_)?(num|n)_(routed_|local_|moe_)?experts$")
"""How many experts a layer has."""
MORE_EXPERTS = ("zero_expert_num",)
"""Experts without weights, which a family counts apart."""
GROUPS = ("n_group", "num_expert_group", "n_expert_groups")
KEPT_GROUPS = ("topk_group", "n_limited_groups")
LAYERS = (
    "num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers", "num_decoder_layers", "depth",
)  # fmt: skip
"""How many layers a stack has."""
PREDICTORS = re.compile(r"^(num_nextn_predict|num_mtp|mtp_num(_hidden)?|n_mtp)_?(layers|modules)?$|^num_mtp_modules$")
"""How many layers follow the last one to predict further tokens."""
DENSE = re.compile(
    r"^(first_k_dense_replace|decoder_sparse_step|mlp_only_layers|mlp_layer_types|(num_)?dense_layers?\w*|moe_layer_\w+|"
    r"moe_layers|interleave_moe_layer_step|expert_layer_\w+|enable_moe_block|\w*sparse_step|num_sparse_\w+)$"
)
"""Which layers have no experts."""
WIDTH = ("hidden_size", "d_model", "n_embd")
VOCABULARY = "vocab_size"
HEADS = ("num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "num_heads", "kv_n_heads")
TEXT = ("text_config", "llm_config", "language_config")
"""Where a composite model keeps what concerns its language model."""
NESTED = (
    *TEXT, "vision_config", "audio_config", "thinker_config", "talker_config", "ffn_config", "attn_config",
    "quantization_config", "rope_scaling", "rope_parameters",
)  # fmt: skip
"""What is an object in every config that has it."""

_DEEPEST = 8
_FLOAT = "__float__"


@dataclass(frozen=True)
class Part:
    """One object of a config. ``path`` names it, () for the whole; ``text`` says whether it may describe a language
    model.
    """

    path: tuple[str, ...]
    values: dict[str, Any]
    text: bool

    def name(self, key: str) -> str:
        """A field of it as messages call it."""
        return ".".join((*self.path, key))

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of these fields that it has."""
        return next((name for name in names if self.values.get(name) is not None), None)

    def matching(self, pattern: re.Pattern[str]) -> list[str]:
        """Its fields of such a name, those without a value left out."""
        return [name for name, value in self.values.items() if value is not None and pattern.match(str(name))]


def parts(config: dict[str, Any]) -> Iterator[Part]:
    """The whole config and every object inside of it; what is about quantisation is not about sizes."""
    yield from _below(Part((), config, text=True))


def _below(part: Part) -> Iterator[Part]:
    yield part
    if len(part.path) == _DEEPEST:
        return
    for key, value in part.values.items():
        if isinstance(value, dict) and key != "quantization_config":
            text = part.text and key in (*TEXT, "thinker_config")
            yield from _below(Part((*part.path, str(key)), value, text))


def special_floats(value: Any) -> Any:
    """A config whose NaN and infinities are floats, which transformers writes as ``{"__float__": "NaN"}``."""
    if isinstance(value, list):
        return [special_floats(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_FLOAT} and str(value[_FLOAT]) in ("NaN", "Infinity", "-Infinity"):
        return float(value[_FLOAT])
    return {key: special_floats(one) for key, one in value.items()}


def shown(value: Any) -> str:
    """A value as config.json writes it, cut to a length that fits into a sentence."""
    try:
        written = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        written = str(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def is_count(value: Any) -> bool:
    """Whether it is an integer; JSON's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def label(source: str) -> str:
    """How messages call the config of a checkpoint."""
    return f"{source.rstrip('/')}/config.json"
