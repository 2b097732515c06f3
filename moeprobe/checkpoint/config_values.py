"""Refuse values of config.json that no model can have, by the field's name and before anything is built of them."""

import math
import re
from collections.abc import Iterator
from typing import Any

from moeprobe.checkpoint.config_fields import (
    EXPERTS,
    GROUPS,
    HEADS,
    KEPT_GROUPS,
    LAYERS,
    MORE_EXPERTS,
    NESTED,
    PREDICTORS,
    TOP_K,
    VOCABULARY,
    WIDTH,
    Part,
    is_count,
    label,
    parts,
    shown,
    special_floats,
)
from moeprobe.errors import CheckpointError

_LARGEST = 2**31 - 1
_MOST_LAYERS = 10_000
_MOST = {VOCABULARY: 10**9} | dict.fromkeys(LAYERS, _MOST_LAYERS) | dict.fromkeys(HEADS, 10**6)
_MOST |= dict.fromkeys(WIDTH, 10**7)
_POSITIVE = (*LAYERS, *WIDTH, VOCABULARY, *HEADS, "decoder_sparse_step")
_COUNTED = (
    *GROUPS, *KEPT_GROUPS, *MORE_EXPERTS, "head_dim", "intermediate_size", "moe_intermediate_size", "n_shared_experts",
    "num_shared_experts",
)  # fmt: skip
_ANY_LENGTH = re.compile(r"max|length|_id")
"""Where some configs write an enormous number for *no bound*."""
_ONE_NUMBER = {*LAYERS, *WIDTH, VOCABULARY} - {"depth"}
_REAL = re.compile(r"(_eps|^rope_theta|^(moe_)?rout\w+_scaling_factor)$")
_DTYPE = re.compile(r"^(torch\.)?(half|double|float|bfloat16|u?int\d+|bool|float(16|32|64|4_\w+|6_\w+|8_\w+))$")
_OF_LAYERS = re.compile(r"layers$|layer_(freq|interval|step|period|offset|start_index|end_index)$|^first_k_dense")


def refuse_bad_values(config: dict[str, Any], source: str) -> None:
    """Do nothing if every field that moeprobe knows has a value that it can have, and none contradicts another.

    Args:
        config: raw config.json.
        source: folder or hub id, for the message.

    Raises:
        CheckpointError: a field has a value of another kind, beyond any model, or one that another field excludes.

    """
    for part in parts(special_floats(config)):
        for fault in (*_kinds(part), *_contradictions(part)):
            raise CheckpointError(f"{fault} ({label(source)}); correct config.json, or get it again.")


def refuse_contradictions(config: dict[str, Any], source: str) -> None:
    """Do nothing if no field of a config, with transformers' defaults where it says nothing, excludes another.

    Raises:
        CheckpointError: one does.

    """
    for part in parts(config):
        for fault in _contradictions(part):
            raise CheckpointError(
                f"{fault} ({label(source)}, with transformers' defaults for what it does not say); "
                "correct config.json, or get it again."
            )


def _kinds(part: Part) -> Iterator[str]:
    """What is wrong with single values."""
    for key, value in part.values.items():
        if value is None or not isinstance(key, str):  # transformers numbers labels
            continue
        name, said = part.name(key), shown(value)
        if key in NESTED and not isinstance(value, dict):
            yield f"{name} is {said}, and must be an object"
        elif key in ("dtype", "torch_dtype") and not isinstance(value, dict):
            if not isinstance(value, str) or not _DTYPE.match(value):
                yield f"{name} is {said}, which is no dtype of torch"
        elif key == "architectures" and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            yield f"{name} is {said}, and must be a list of names of classes"
        elif key == "rope_theta" and value == 0:
            yield f"{name} is {said}, and must be a positive number"
        elif key == "rope_type" and not isinstance(value, str):
            yield f"{name} is {said}, and must be the name of a kind of position embedding"
        elif isinstance(value, float) and math.isnan(value):
            yield f"{name} is NaN, which is no number"
        elif _REAL.search(key):
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value) or value < 0:
                yield f"{name} is {said}, and must be a finite number that is not negative"
        elif (least := _least(key)) is not None and not (key in LAYERS and isinstance(value, dict)):
            yield from _number(name, value, least, _MOST.get(key, _MOST_LAYERS if PREDICTORS.match(key) else _LARGEST))
        elif _OF_LAYERS.search(key) and is_count(value) and abs(value) > _MOST_LAYERS:
            yield f"{name} is {said}, more than any model has layers"
        elif is_count(value) and abs(value) >= 2**63 and not _ANY_LENGTH.search(key):
            yield f"{name} is {said}, more than 64 bits hold"


def _least(key: str) -> int | None:
    """The least value of a field that counts, None for any other field."""
    if key in _POSITIVE:
        return 1
    counts = key in _COUNTED or TOP_K.match(key) or EXPERTS.match(key) or PREDICTORS.match(key)
    return 0 if counts else None


def _number(name: str, value: Any, least: int, most: int) -> Iterator[str]:
    """Several families give one number a layer, and there 0 or null where a layer has none."""
    several = isinstance(value, list) and bool(value) and name.rpartition(".")[2] not in _ONE_NUMBER
    bound = 0 if several else least
    for number in value if several else [value]:
        if several and (number is None or isinstance(number, list)):
            continue
        if not is_count(number):
            yield f"{name} is {shown(value)}, and must be a whole number{' for every layer' if several else ''}"
        elif number < bound:
            yield f"{name} is {shown(number)}, and must be at least {bound}"
        elif number > most:
            yield f"{name} is {shown(number)}, beyond any model (at most {most:,})"


def _contradictions(part: Part) -> Iterator[str]:
    """What is wrong between the numbers of experts, of those a token is sent to, and of groups."""
    counts = {name: _most(part.values[name]) for name in part.matching(EXPERTS)}
    experts = max(counts.values(), default=0)
    if not experts:
        return
    said = " and ".join(f"{part.name(name)} {shown(part.values[name])}" for name in counts)
    total = experts + sum(_most(part.values.get(name)) for name in MORE_EXPERTS)
    chosen = {name: _numbers(part.values[name]) for name in part.matching(TOP_K)}
    nothing = [key for key, value in part.values.items() if value is None and TOP_K.match(str(key))]
    if nothing and not chosen and part.text:
        yield f"{part.name(nothing[0])} is null, and {said}: to how many experts a token is sent is not known"
    for name, numbers in chosen.items():
        if part.values[name] == 0:
            yield f"{part.name(name)} is {shown(part.values[name])}, and a token must be sent to at least one expert"
        elif numbers and max(numbers) > total:
            yield (
                f"{part.name(name)} is {shown(part.values[name])} and {said}: a token cannot be sent to more experts "
                "than there are"
            )
    yield from _groups(part, total, said, max((max(numbers, default=0) for numbers in chosen.values()), default=0))


def _groups(part: Part, experts: int, said: str, chosen: int) -> Iterator[str]:
    first, kept = part.first(GROUPS), part.first(KEPT_GROUPS)
    # Where no group is ever left out, other rules use neither number.
    if first is None or part.values.get("topk_method") == "greedy" or part.values.get("use_grouped_topk") is False:
        return
    groups = part.values[first]
    if not is_count(groups) or groups < 2:
        return
    name = part.name(first)
    if experts % groups:
        yield f"{name} is {groups} and {said}: the experts cannot be divided into groups of equal size"
        return
    if kept is None or not is_count(part.values[kept]):
        return
    number = part.values[kept]
    if not 1 <= number <= groups:
        yield f"{part.name(kept)} is {number} and {name} {groups}: from 1 to {groups} groups can be kept"
    elif chosen > number * (experts // groups):
        tops = " and ".join(f"{part.name(one)} {shown(part.values[one])}" for one in part.matching(TOP_K))
        yield (
            f"{part.name(kept)} is {number}, {name} {groups}, {said} and {tops}: the kept groups have "
            f"{number * (experts // groups)} experts, fewer than a token is sent to"
        )


def _numbers(value: Any) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if is_count(number)]


def _most(value: Any) -> int:
    return max(_numbers(value), default=0)
