"""Released: what the published checkpoints of a family declare, as far as transformers itself says so.

Defaults of a config class are, by transformers' custom, those of the family's first release. Where they are not
(Qwen3-MoE), its loader of GGUF files has to know better, since these files hold no such flag. Nothing is known here
by heart: families of which neither says anything have no entry.
"""

from typing import Any


def released_norm(config: Any) -> str | None:
    """Who says that the family's released checkpoints renormalise their weights; None where nobody does.

    Args:
        config: the config of the text model.

    """
    kind = type(config)
    if not kind.__module__.startswith("transformers.models."):
        return None
    if getattr(kind, "norm_topk_prob", None) is True:
        return f"the default of transformers' {kind.__name__}"
    family = str(getattr(kind, "model_type", ""))
    if family and _gguf_defaults().get(family, {}).get("norm_topk_prob") is True:
        return f"what transformers sets for {family} when it reads a GGUF file"
    return None


def _gguf_defaults() -> dict[str, dict[str, Any]]:
    """Values of configs that GGUF files leave out, by family; empty where this version of transformers has none."""
    try:
        from transformers.integrations import GGUF_CONFIG_DEFAULTS_MAPPING
    except ImportError:
        return {}
    return dict(GGUF_CONFIG_DEFAULTS_MAPPING)
