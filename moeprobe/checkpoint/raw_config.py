"""A checkpoint's config without its model: transformers' own config class where there is one, else config.json."""

from collections.abc import Mapping
from typing import Any

from moeprobe.checkpoint.open import has_native_class
from moeprobe.checkpoint.quiet import quiet_transformers

_TEXT = ("text_config", "llm_config", "language_config")


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
    return next((part for name in _TEXT if isinstance(part := config.get(name), dict)), config)


def read_config(raw: dict[str, Any]) -> Any:
    """The config as an object; neither code of the checkpoint nor transformers' modelling code is imported."""
    model_type = str(raw.get("model_type", ""))
    if not has_native_class(model_type):
        return RawConfig(raw)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        with quiet_transformers():
            return CONFIG_MAPPING[model_type].from_dict(raw)
    except Exception:  # a config that its class refuses still says what it says
        return RawConfig(raw)
