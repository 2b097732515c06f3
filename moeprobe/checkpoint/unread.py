"""What lies in a checkpoint and nobody reads: tensors without a place in the model, second sets of weight files."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.expert_names import StoredExperts, fold_experts
from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.placement import Placement, place
from moeprobe.checkpoint.raw_config import text_part
from moeprobe.checkpoint.reasons import ADAPTER, LIKE_ROUTING
from moeprobe.checkpoint.weights import NOT_WEIGHTS, WEIGHT_ENDINGS, find_first
from moeprobe.findings.unread import Unread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_MTP = re.compile(r"(^|[._])(mtp|nextn|eh_proj|enorm|hnorm|shared_head)([._]|\d|$)")
_FURTHER = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "num_mtp_modules", "mtp_num_hidden_layers")
"""Keys of config.json for layers of multi-token prediction behind those of the decoder."""
_SUSPECT = re.compile(f"bias|{ADAPTER.pattern}")
_SHOWN = 4
"""Patterns of names that a line shows."""
_SHARD = re.compile(r"-\d+-of-\d+(?=\.)")
PREDICTS = "layers of multi-token prediction, which transformers does not load"
_NO_PLACE = "no place in the model"
_OLD = re.compile(r"^(model|pytorch_model)")
"""Names that transformers itself gives to weight files: a second set of them is an older or newer save."""


def further_layers(text: Mapping[str, Any]) -> range:
    """Layers of multi-token prediction by the config: they are counted on from those of the decoder."""
    layers = text.get("num_hidden_layers")
    further = sum(value for key in _FURTHER if type(value := text.get(key)) is int)
    return range(layers, layers + further) if type(layers) is int else range(0)


def find_unread(checkpoint: Checkpoint, model: "PreTrainedModel", left_out: Collection[str] = ()) -> list[Unread]:
    """All that lies in a checkpoint on the disk and is not read when ``model``, its skeleton, is loaded.

    ``left_out`` are parts of the checkpoint that the model does not have (``auto.Choice.left_out``).
    """
    few, experts = fold_experts(read_headers(checkpoint.shards))
    text = text_part(checkpoint.config)
    listing = {path.name for path in checkpoint.folder.iterdir()}
    index = find_first(checkpoint.folder, checkpoint.config, checkpoint.source)
    read = {index.name, *(shard.name for shard in checkpoint.shards)}
    return [*unread_tensors(place(model, few), experts, text, left_out), *unread_files(listing, read)]


def unread_tensors(
    placed: Placement,
    experts: Mapping[str, StoredExperts],
    text: Mapping[str, Any],
    left_out: Collection[str] = (),
) -> list[Unread]:
    """Stored tensors that the model has no place for, by the reason why.

    Args:
        placed: where the stored tensors go.
        experts: those stored one by one, of which ``placed`` knows one for all.
        text: the part of config.json about the language model.
        left_out: parts of the checkpoint that the model does not have (``auto.Choice.left_out``).

    """
    further = further_layers(text)
    reasons: dict[str, list[str]] = {}
    for name in placed.dropped:
        reasons.setdefault(
            PREDICTS if predicts(name, further) else "transformers leaves them out on purpose", []
        ).append(name)
    for name in placed.unplaced:
        if predicts(name, further):
            reasons.setdefault(PREDICTS, []).append(name)
        elif any(f".{name}".startswith(f".{part}.") or f".{part}." in name for part in left_out):
            reasons.setdefault("a part of the checkpoint that does not read text", []).append(name)
        else:
            reasons.setdefault(_NO_PLACE, []).append(name)
    return [of_tensors(names, why, experts, suspect=why == _NO_PLACE) for why, names in reasons.items()]


def of_tensors(
    names: Sequence[str], why: str, experts: Mapping[str, StoredExperts] | None = None, *, suspect: bool = False
) -> Unread:
    """One line for tensors that are unread for one reason; ``suspect``: nothing explains names of routing there."""
    counted = sum(_siblings(name, experts or {}) for name in names)
    routing = [name for name in names if LIKE_ROUTING.search(name) or _SUSPECT.search(name)] if suspect else []
    return Unread(kind="tensors", names=_shown(routing or names), count=counted, routing=bool(routing), why=why)


def _shown(names: Sequence[str]) -> list[str]:
    """A few patterns that stand for these names; what lies in one module is named by it."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_NUMBER.sub("*", name), []).append(name)
    if len(alike) > _SHOWN and len(module := _common(names)) > 1:
        return [f"{'.'.join(module)}.*"]
    return [pattern if len(found) > 1 else found[0] for pattern, found in list(alike.items())[:_SHOWN]]


def _common(names: Sequence[str]) -> list[str]:
    """The parts with which all names begin."""
    first, last = min(names).split("."), max(names).split(".")
    same = (one == other for one, other in zip(first, last, strict=False))
    return first[: next((place for place, equal in enumerate(same) if not equal), min(len(first), len(last)) - 1)]


def unread_files(names: Iterable[str], read: Collection[str]) -> list[Unread]:
    """Weight files in the folder besides those that are read.

    Args:
        names: of all files in the folder or repository.
        read: those that hold the weights, and their index.

    """
    others = sorted(
        name
        for name in names
        if "/" not in name and name not in read and not NOT_WEIGHTS.match(name) and name.endswith(WEIGHT_ENDINGS)
    )
    sets: dict[str, list[str]] = {}
    for name in others:
        sets.setdefault(_SHARD.sub("-*", name), []).append(name)
    found = []
    for pattern, files in sets.items():
        adapter = pattern.startswith("adapter_model")
        again = _OLD.match(pattern) is not None and pattern.endswith(".safetensors")
        why = (
            "an adapter, which was not applied"
            if adapter
            else (
                "a second set of weights, from another save"
                if again
                else "weights in another form, which transformers does not load"
            )
        )
        shown = [pattern] if len(files) > 1 else files
        found.append(Unread(kind="files", names=shown, count=len(files), routing=adapter or again, why=why))
    return found


def predicts(name: str, further: range) -> bool:
    """Whether a tensor is of a layer of multi-token prediction; ``further``: their numbers."""
    layer = _LAYER.search(name)
    return _MTP.search(name) is not None or (layer is not None and int(layer[1]) in further)


def _siblings(name: str, experts: Mapping[str, StoredExperts]) -> int:
    holder, found, _ = name.partition("experts.")
    group = experts.get(holder) if found else None
    if group is None:
        return 1
    rest = next((rest for rest, first in group.first.items() if first == name), None)
    return 1 if rest is None else len(group.numbers[rest])
