"""Which fields of a config give a tensor its shape: measured on skeletons, since every family has its own rule."""

import time
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.config_fields import is_count, parts, shown
from moeprobe.checkpoint.quiet import quiet_transformers

if TYPE_CHECKING:
    from torch import nn

_SECONDS = 10.0
_MOST = 4
"""More fields than these say nothing."""


def shaping_fields(
    config: dict[str, Any], tensor: str, differing: list[int], make: Callable[[dict[str, Any]], "nn.Module"]
) -> str:
    """The fields, with their values, on which these dimensions of a tensor depend; "" where none was found.

    Args:
        config: raw config.json.
        tensor: its name in the model.
        differing: the dimensions.
        make: builds the skeleton of a config.

    """
    until, found = time.monotonic() + _SECONDS, list[str]()
    before = _shape(config, tensor, make)
    for part in parts(config):
        for key, value in part.values.items():
            if not is_count(value) or value < 1 or str(key).endswith(("_id", "_ids", "_index")):
                continue
            if before is None or time.monotonic() > until:
                return ""
            changed = deepcopy(config)
            holder = changed
            for name in part.path:
                holder = holder[name]
            # Twice as much divides by whatever it was divisible by.
            holder[key] = 2 * value
            after = _shape(changed, tensor, make)
            if after is not None and len(after) == len(before) and any(after[at] != before[at] for at in differing):
                found.append(f"{part.name(key)} ({shown(value)})")
    return " and ".join(found) if len(found) <= _MOST else ""


def _shape(
    config: dict[str, Any], tensor: str, make: Callable[[dict[str, Any]], "nn.Module"]
) -> tuple[int, ...] | None:
    try:
        with quiet_transformers():
            return tuple(make(config).state_dict()[tensor].shape)
    except Exception:  # this change makes no model, which says nothing about the shape
        return None
