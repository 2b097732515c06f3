"""Likely reasons why files and config disagree, in words: each from what the numbers or names themselves show."""

import re
from collections.abc import Mapping, Sequence

from moeprobe.checkpoint.headers import TensorHeader

LIKE_ROUTING = re.compile(
    r"(^|\.)(\w+_)?(gate|gates|wg|gating)(_network|_inp|_fn)?(\.|$)|router|routing"
    r"|correction_bias|expert_bias|balancing_bias|tid2eid|moe_statics",
    re.IGNORECASE,
)
"""Names of tensors that decide which experts run. ``gate_proj`` and ``gate_up_proj`` are parts of an expert."""
ADAPTER = re.compile(r"(^|\.)base_model\.|lora_|modules_to_save|\.base_layer\.|\.original_module\.")
"""Names in the state dict of a PEFT model."""


def missing_reason(missing: Sequence[str], unplaced: Sequence[str], headers: Mapping[str, TensorHeader]) -> str:
    """Why tensors may be missing, as the end of a sentence.

    Args:
        missing: names in the model, those of the routing first.
        unplaced: names in the files that the model has no place for.
        headers: of the tensors in the files.

    """
    adapter = next((name for name in unplaced if ADAPTER.search(name)), None)
    if adapter is not None:
        return (
            f"; they hold an adapter that was not merged ({adapter}): merge it (`merge_and_unload()`, then "
            "`save_pretrained`) and give the merged folder"
        )
    instead = _alike(missing[0], unplaced)
    if instead is not None:
        shape = f" {list(headers[instead].shape)}" if instead in headers else ""
        return (
            f", which hold {instead}{shape} instead, a name that transformers does not read: it comes from another "
            "framework or version, so convert the checkpoint again"
        )
    return (
        ": it was cut out, left behind by a conversion, or saved on another process without being gathered; "
        "get the checkpoint again, or save it again whole"
    )


def _alike(missing: str, unplaced: Sequence[str]) -> str | None:
    """The stored name of the same layer that resembles a missing one most."""
    numbers = re.findall(r"\.(\d+)\.", missing)
    routing = LIKE_ROUTING.search(missing) is not None
    words = set(re.split(r"[._]", missing))
    found = [
        name
        for name in unplaced
        if re.findall(r"\.(\d+)\.", name)[: len(numbers)] == numbers
        and (LIKE_ROUTING.search(name) is not None) == routing
    ]
    same_end = [name for name in found if ("bias" in name.rpartition(".")[2]) == ("bias" in missing.rpartition(".")[2])]
    return max(same_end or found, key=lambda name: len(words.intersection(re.split(r"[._]", name))), default=None)


def shape_reason(stored: Sequence[int], expected: Sequence[int], *, by_expert: bool = True) -> str:
    """Why a tensor may have another shape than the config says; ``by_expert``: its first dimension counts experts."""
    here, there = tuple(stored), tuple(expected)
    if 0 in here:
        return (
            "it is empty, as training shards its parameters (FSDP, DeepSpeed ZeRO-3) and saved them without gathering; "
            "save the checkpoint again with all parameters gathered"
        )
    if len(here) == 2 and here == there[::-1]:
        return "it is transposed, as another framework stores it; convert the checkpoint again"
    if not here or len(here) != len(there):
        return "it has another number of dimensions, as another framework stores it; convert the checkpoint again"
    if by_expert and here[1:] == there[1:] and here[0] < there[0]:
        if there[0] % here[0]:
            return "experts were pruned without changing config.json; correct it, or get the checkpoint again"
        return (
            f"experts were pruned without changing config.json, or this is one of {there[0] // here[0]} ranks of an "
            "expert-parallel export; correct config.json, or gather the ranks"
        )
    if by_expert and here[1:] == there[1:] and here[0] == there[0] + 1:
        what = "it has one row too many" if len(here) > 1 else "there is one too many"
        return f"{what}, for a shared or null expert or for padding of another framework; convert the checkpoint again"
    return "the two belong to different models, or the checkpoint was changed without changing config.json"
