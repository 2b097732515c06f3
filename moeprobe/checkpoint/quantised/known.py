"""Known methods: whether transformers has a quantiser for what a config declares, before any weight is fetched."""

from collections.abc import Mapping
from typing import Any

from moeprobe.checkpoint.quantised.declared import quantisation_of
from moeprobe.errors import CheckpointError

INSTEAD = "use --weights-only, which reads the routers alone, with their own scales"


def refuse_unknown_method(config: Mapping[str, Any], source: str) -> None:
    """Do nothing if transformers has a quantiser for what a config declares, or it declares none.

    Raises:
        CheckpointError: it has none, and would load the codes as weights.

    """
    said = quantisation_of(config)
    if not said or said.get("plain_fp8") or said.get("load_in_8bit") or said.get("load_in_4bit"):
        return
    method = said.get("quant_method")
    if method is None and not {"bits", "group_size", "quant_algo", "config_groups"} & set(said):
        return  # nothing about weights
    from transformers import __version__
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        what = "a quantisation without quant_method (as MLX does)" if method is None else f"the quant_method {method!r}"
        raise CheckpointError(
            f"config.json of {source} declares {what}, which transformers {__version__} does not apply: codes would be "
            f"run as weights; {INSTEAD}."
        )
