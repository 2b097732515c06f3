"""Placement: which tensor of the model each stored tensor is for, found on the model's skeleton, nothing being loaded.

transformers' own rules decide (``renaming``), so a checkpoint with the hub's names and one that ``save_pretrained``
wrote are placed alike. Codes, scales and zero points of a quantised tensor belong where that tensor belongs.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moeprobe.checkpoint.expert_names import fold_experts
from moeprobe.checkpoint.names import ModuleTensor
from moeprobe.checkpoint.quantised.naming import wholes
from moeprobe.checkpoint.renaming import Renaming, rules_for

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the stored tensors go.

    ``tensors`` have a place in the model (parts of a quantised one are named like it, with their own endings).
    ``sources`` maps the model's tensors to what they are made of, ``targets`` the stored ones to what they are a part
    of, ``quantised`` the stored parts of quantised tensors to the model's. ``unplaced`` have no place; ``dropped`` are
    those of which the model's class says so itself (the layers of multi-token prediction). ``missing`` are tensors of
    the model that no file has, ``empty`` is its state dict on the meta device.
    """

    empty: "Mapping[str, Tensor]"
    tensors: list[ModuleTensor] = field(default_factory=list)
    sources: dict[str, list[ModuleTensor]] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    quantised: dict[str, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def place(model: "PreTrainedModel", names: Collection[str]) -> Placement:
    """Place stored tensors in a skeleton.

    Args:
        model: on the meta device (``load.skeleton``).
        names: as the files have them; one expert stands for its siblings (``expert_names.fold_experts``).

    """
    empty = model.state_dict()
    rename = Renaming(model, rules_for(model), empty)
    dropped = _any_of(getattr(model, "_keys_to_ignore_on_load_unexpected", None), r"rotary_emb\.inv_freq")
    sources: dict[str, list[ModuleTensor]] = defaultdict(list)
    placed = Placement(empty, sources=sources)
    covered: set[str] = set()
    for name in sorted(names):
        if made := list(_made_of(name, rename, empty)):
            placed.tensors.extend(made)
            placed.targets[name] = [tensor.name for tensor in made]
            for tensor in made:
                sources[tensor.name].append(tensor)
                covered.add(tensor.name)
        elif (part := _part_of(name, rename, empty)) is not None:
            placed.tensors.append(part[0])
            placed.quantised[name] = part[1][0]
            covered.update(part[1])
        elif dropped.search(rename(name)[0]):
            placed.dropped.append(name)
        else:
            placed.unplaced.append(name)
    placed.missing.extend(_missing(model, empty, covered))
    return placed


def _made_of(name: str, rename: Renaming, empty: "Mapping[str, Tensor]") -> Iterator[ModuleTensor]:
    """The model's tensors that a stored one is, or is a part of."""
    _, pattern, targets = rename(name)
    converter = None if pattern is None else rename.converters[pattern]
    for part, target in enumerate(targets):
        if target in empty:
            yield ModuleTensor(target, name, converter, part, pattern)


def _part_of(name: str, rename: Renaming, empty: "Mapping[str, Tensor]") -> tuple[ModuleTensor, list[str]] | None:
    """A stored tensor under the name that it would have in the model, and the model's tensors it is a part of."""
    for whole, stem in wholes(name):
        targets = [made.name for made in _made_of(whole, rename, empty)]
        if targets:
            target = targets[0] if stem == whole else targets[0].removesuffix("weight")
            return ModuleTensor(f"{target}{name[len(stem) :]}", name), targets
    return None


def _any_of(patterns: Collection[str] | None, *more: str) -> re.Pattern[str]:
    found = sorted({*(patterns or ()), *more})
    return re.compile("|".join(f"({pattern})" for pattern in found) or r"(?!)")


def _missing(model: "PreTrainedModel", empty: "Mapping[str, Tensor]", covered: Collection[str]) -> Iterator[str]:
    """Tensors that no file has, that are tied to none that is there, and that the class cannot do without.

    What the class can do without is missing all the same where other layers have it. Of experts that are modules of
    their own, one stands for its siblings.
    """
    spared = _any_of(getattr(model, "_keys_to_ignore_on_load_missing", None))
    tied: dict[str, set[str]] = defaultdict(set)
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        tied[target].add(source)
        tied[source].add(target)
    elsewhere = {_NUMBER.sub("*", name) for name in covered if spared.search(name)}
    for name in fold_experts(empty)[0]:
        dispensable = spared.search(name) is not None and _NUMBER.sub("*", name) not in elsewhere
        if name not in covered and tied[name].isdisjoint(covered) and not dispensable:
            yield name
