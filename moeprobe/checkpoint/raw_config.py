"""A checkpoint's config without its model: transformers' own config class where there is one, else config.json."""

import re
from collections.abc import Mapping
from typing import Any

from moeprobe.checkpoint.blame import refusal
from moeprobe.checkpoint.config_fields import TEXT, label, special_floats
from moeprobe.checkpoint.open import has_native_class
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.errors import CheckpointError

_UNKNOWN_ROPE = re.compile(r"Missing validation function .* for 'rope_type'='(.*?)'")
"""What transformers only warns of, since the config alone makes no position embedding."""
_ROPE_OF_ONE_FAMILY = ("ntk_alpha", "xdrope")
"""Known to the modelling code of a family alone."""


class RawConfig:
    """config.json as attributes, for model types that transformers does not know; it makes up no defaults."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.__dict__.update(raw)

    def get_text_config(self) -> "RawConfig":
        """The part about the language model of a composite one, else the whole."""
        part = text_part(self.__dict__)
        return self if part is self.__dict__ else RawConfig(dict(part))


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a raw config.json about the language model of a composite one, else the whole."""
    return next((part for name in TEXT if isinstance(part := config.get(name), dict)), config)


def read_config(raw: dict[str, Any], source: str) -> Any:
    """The config as an object; neither code of the checkpoint nor transformers' modelling code is imported.

    Raises:
        CheckpointError: transformers has a class for this model type, and that refuses the config.

    """
    model_type = str(raw.get("model_type", ""))
    if not has_native_class(model_type):
        return RawConfig(raw)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def make(config: dict[str, Any]) -> Any:
        return CONFIG_MAPPING[model_type].from_dict(special_floats(config))

    with quiet_transformers() as said:
        try:
            config = make(raw)
        except Exception as error:
            raise refusal(raw, source, error, make) from error
    for rope_type in _UNKNOWN_ROPE.findall("\n".join(said)):
        if rope_type not in _ROPE_OF_ONE_FAMILY:
            raise CheckpointError(
                f"rope_type is {rope_type} in {label(source)}, a position embedding that transformers does not have; "
                "correct it, or get the file again."
            )
    return config
