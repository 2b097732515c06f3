"""Declared: what a config says about the quantisation of one module, whoever wrote it."""

import re
from collections.abc import Mapping
from typing import Any

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")


def quantisation_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantisation config of a raw config.json (MLX calls it ``quantization``); empty where there is none.

    Where there is none and the model's dtype is fp8, the numbers are a plain cast: ``plain_fp8``.
    """
    for part in (config, *(config.get(name) for name in _TEXT)):
        if isinstance(part, Mapping):
            for name in ("quantization_config", "compression_config", "quantization"):
                if isinstance(found := part.get(name), Mapping) and found:
                    return found
    cast = any(str(config.get(name, "")).startswith("float8") for name in ("dtype", "torch_dtype"))
    return {"plain_fp8": True} if cast else {}


def method_of(said: Mapping[str, Any]) -> str:
    """The name of the method, in lower case; empty where the config does not say."""
    return str(said.get("quant_method") or "").lower()


def said_of(said: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """The quantisation config with what it says about this module put over what it says about all.

    MLX names single modules beside the rest, AutoRound in ``extra_config``, GPTQModel by patterns in ``dynamic``.
    """
    found = dict(said)
    for table in (said, said.get("extra_config"), said.get("layer_config")):
        if isinstance(table, Mapping):
            found |= _named(table, module)
    if isinstance(patterns := said.get("dynamic"), Mapping):
        for pattern, own in patterns.items():
            sign, body = (str(pattern)[:2], str(pattern)[2:]) if str(pattern)[1:2] == ":" else ("+:", str(pattern))
            if sign == "+:" and isinstance(own, Mapping) and _matches(body, module):
                return found | dict(own)
    return found


def _named(table: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    own = table.get(module)
    if isinstance(own, Mapping):
        return own
    for name, entry in table.items():
        # AutoRound writes patterns where many modules agree.
        if isinstance(entry, Mapping) and ".*" in str(name) and _matches(str(name), module):
            return entry
    return {}


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
