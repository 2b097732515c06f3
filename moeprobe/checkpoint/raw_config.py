"""A checkpoint's config without its model: transformers' own config class where there is one, else config.json."""

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
        for name in _TEXT:
            part = self.__dict__.get(name)
            if isinstance(part, dict):
                return RawConfig(part)
        return self


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
