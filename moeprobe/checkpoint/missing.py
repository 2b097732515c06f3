"""What the files could not fill: random numbers must never be judged as if they were the checkpoint's."""

import re
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.reasons import ADAPTER, LIKE_ROUTING, missing_reason, shape_reason
from moeprobe.checkpoint.shaping import shaping_fields
from moeprobe.errors import IncompleteError

_SELECTION_BIAS = re.compile(r"(^|\.)(e_score_correction_bias|correction_bias|expert_bias)$")

_TABLE = re.compile(r"(^|\.)tid2eid$")


def check_shapes(
    checkpoint: Checkpoint,
    mismatched: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]],
    make: Callable[[dict[str, Any]], nn.Module],
) -> None:
    """Refuse tensors ``(name, shape in the files, shape in the model)`` that the config does not agree with.

    ``make`` builds the skeleton of a config, by which the fields are found that give such a tensor its shape.

    Raises:
        IncompleteError: there is one.
    """
    tables = [entry for entry in mismatched if _TABLE.search(entry[0]) and entry[1][1:] == entry[2][1:]]
    if tables and len(tables) == len(mismatched):
        name, stored, expected = min(tables)
        change = expected[0] - stored[0]
        what = (
            f"give each of the {change} new ones a row of {stored[1]} distinct experts" if change > 0 else "cut it too"
        )
        raise IncompleteError(
            f"{name} of {checkpoint.source} has rows for {stored[0]} token ids and the embedding, like vocab_size in "
            f"config.json, for {expected[0]}: the vocabulary was resized without this table; {what} (in all "
            f"{len(tables)} such tables), or judge what is there with --weights-only."
        )
    if mismatched:
        name, stored, expected = min(mismatched)
        differing = [at for at, (one, other) in enumerate(zip(stored, expected, strict=False)) if one != other]
        fields = shaping_fields(checkpoint.config, name, differing, make)
        by_expert = LIKE_ROUTING.search(name) is not None or ".experts." in name
        raise IncompleteError(
            f"{name} of {checkpoint.source} is {list(stored)} in the files and {list(expected)} by config.json"
            f"{f', where it depends on {fields}' if fields else ''} ({len(mismatched)} such tensors): "
            f"{shape_reason(stored, expected, by_expert=by_expert)}."
        )


def check_missing(
    checkpoint: Checkpoint, model: nn.Module, missing: Collection[str], unexpected: Collection[str]
) -> list[str]:
    """Names of missing selection biases, which are zero in the model; any other missing tensor is refused.

    Biases that only some of the layers lack are refused as well.

    Raises:
        IncompleteError: tensors are missing; the message names the first few.
    """
    zeros = sorted(name for name in missing if _is_zero_bias(model, name))
    lost = sorted(set(missing) - set(zeros), key=lambda name: (LIKE_ROUTING.search(name) is None, name))
    others = sorted(unexpected)
    if not lost:
        _refuse_half_lost(checkpoint, model, zeros, others)
        return zeros
    total = len(model.state_dict())
    first = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
    # Most of the model missing while the files hold other names: these are the weights of something else.
    if others and len(lost) > total / 2 and not any(map(ADAPTER.search, others)):
        raise IncompleteError(
            f"The weights of {checkpoint.source} are not those of a {type(model).__name__}: "
            f"{len(lost)} of its {total} tensors are missing ({first}), {len(others)} others are there "
            f"({others[0]}); check model_type and architectures in config.json."
        )
    raise IncompleteError(
        f"{len(lost)} of {total} tensors are missing from the weights of {checkpoint.source} ({first})"
        f"{missing_reason(lost, others, {})} (transformers would initialise them randomly)."
    )


def _refuse_half_lost(checkpoint: Checkpoint, model: nn.Module, zeros: list[str], unexpected: list[str]) -> None:
    """Selection biases may be missing altogether, which is judged; in some layers only, or misnamed, they were lost."""
    held = [name for name in model.state_dict() if _SELECTION_BIAS.search(name)]
    misnamed = [name for name in unexpected if "bias" in name and LIKE_ROUTING.search(name)]
    if zeros and (misnamed or len(zeros) < len(held)):
        raise IncompleteError(
            f"{len(zeros)} of {len(held)} selection biases are missing from the weights of {checkpoint.source} "
            f"({zeros[0]}){missing_reason(zeros, misnamed, {})} (transformers would use zeros)."
        )


def _is_zero_bias(model: nn.Module, name: str) -> bool:
    if _SELECTION_BIAS.search(name) is None:
        return False
    owner, _, attribute = name.rpartition(".")
    bias = getattr(model.get_submodule(owner), attribute)
    # On meta: offloaded, so its values cannot be looked at here.
    return bias.ndim == 1 and (bias.is_meta or not bool(bias.any()))
