"""Held against the model class: every tensor that transformers would load is there, once, in the right shape.

The required set is the state dict of the model's skeleton; the stored names were placed in it by transformers' own
rules (``checkpoint.placement``). Where the two disagree, the answer is not known, and a smaller number of routers would
be judged in silence: so it is refused, and the message names tensor, both shapes and the likely reasons.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.expert_names import StoredExperts, fold_experts
from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.checkpoint.names import ModuleTensor, put_together
from moeprobe.checkpoint.placement import Placement
from moeprobe.checkpoint.reasons import LIKE_ROUTING, missing_reason, shape_reason
from moeprobe.checkpoint.shaping import shaping_fields
from moeprobe.errors import IncompleteError

if TYPE_CHECKING:
    from torch import Tensor, nn

_CODES = re.compile(r"^(U|I|F4|F6|BOOL)")
_NO_NUMBERS = re.compile(r"^(I64|U64|BOOL|C64)")
"""Dtypes that hold neither weights nor, in any format, their codes."""
_WHOLE = re.compile(r"^[IU](8|16|32|64)$")
"""Dtypes of codes: their shape is not that of the tensor they stand for."""


@dataclass(frozen=True, eq=False)
class Files:
    """What the files of a checkpoint say before any tensor is read.

    ``headers`` may lack tensors of shards that were not looked at (over the network); ``experts`` are those stored one
    by one, by the name up to ``experts.``; ``config`` is the raw config.json, and ``make`` builds the skeleton of a
    changed one (None for a model type that transformers does not have).
    """

    source: str
    config: Mapping[str, Any]
    headers: Mapping[str, TensorHeader]
    experts: Mapping[str, StoredExperts]
    make: "Callable[[dict[str, Any]], nn.Module] | None" = None

    def by_config(self, target: str, stored: Sequence[int], expected: Sequence[int]) -> str:
        """``by config.json``, and on which of its fields the differing dimensions of a tensor of the model depend."""
        differing = [at for at, (here, there) in enumerate(zip(stored, expected, strict=False)) if here != there]
        fields = shaping_fields(dict(self.config), target, differing, self.make) if self.make is not None else ""
        return f"by config.json{f', where it depends on {fields}' if fields else ''}"


OF_ONE_EXPERT = re.compile(r"(^|\.)experts\.(expert_)?\d+\.")
"""Names of tensors of an expert that is a module of its own."""
OF_EXPERTS = re.compile(r"(^|\.)experts\.")
"""Names of the routed experts' tensors in a model."""


def decides(name: str) -> bool:
    """Whether a tensor of the model, by its name, is a router's or an expert's."""
    return LIKE_ROUTING.search(name) is not None or OF_EXPERTS.search(name) is not None


def refuse_lacking(files: Files, placed: Placement) -> None:
    """Do nothing if every tensor of routers and experts is in the files, under a name that transformers finds.

    Selection biases included: transformers would put zeros in their place, which are then judged as the checkpoint's.

    Raises:
        IncompleteError: some are missing.

    """
    missing = sorted(filter(decides, placed.missing), key=lambda name: LIKE_ROUTING.search(name) is None)
    if missing:
        shape = list(placed.empty[missing[0]].shape)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise IncompleteError(
            f"{missing[0]} {shape}{more}, which the model type {files.config.get('model_type')} has by config.json, "
            f"cannot be found in the weights of {files.source}"
            f"{missing_reason(missing, placed.unplaced, files.headers)}."
        )


def refuse_misshapen(files: Files, placed: Placement, of: re.Pattern[str]) -> None:
    """Do nothing if every tensor with a name like ``of`` whose header is known has the model's shape.

    Raises:
        IncompleteError: one has not.

    """
    known: dict[Any, tuple[int, ...]] = {}
    for target in filter(of.search, placed.sources):
        sources = placed.sources[target]
        if any(source.stored not in files.headers for source in sources):
            continue
        dtypes = {files.headers[source.stored].dtype for source in sources}
        numbers = placed.empty[target].is_floating_point()
        if wrong := next((dtype for dtype in dtypes if _NO_NUMBERS.match(dtype) if numbers), None) or next(
            (dtype for dtype in dtypes if not _WHOLE.match(dtype) and not numbers), None
        ):
            raise IncompleteError(
                f"{_named(sources[0])} of {files.source} is stored as {wrong}, and the model has "
                f"{'numbers with fractions' if numbers else 'whole numbers'} there: it was cast or converted wrongly; "
                "convert the checkpoint again, or get it again."
            )
        if numbers and any(map(_CODES.match, dtypes)):
            continue  # of a quantised tensor; the codes are read with their scales or not at all
        expected = tuple(placed.empty[target].shape)
        try:
            stored = _shape(sources, files, known)
        except RuntimeError as error:
            shapes = ", ".join(f"{one.stored} {list(files.headers[one.stored].shape)}" for one in sources[:3])
            raise IncompleteError(
                f"{target} of {files.source} cannot be made of {shapes}: their shapes do not fit together, so some are "
                "transposed, or of another model; convert the checkpoint again."
            ) from error
        if stored is not None and not numbers and stored[1:] == expected[1:]:
            continue  # a table for another vocabulary is judged row by row
        if stored is not None and stored != expected:
            raise IncompleteError(
                f"{_named(sources[0])} of {files.source} is {list(stored)} in the files and {list(expected)} "
                f"{files.by_config(target, stored, expected)}: {shape_reason(stored, expected)}."
            )
        if stored is None:
            _refuse_other_size(files, placed, target, sources)


def refuse_other_experts(files: Files, placed: Placement | None) -> None:
    """Do nothing if every expert that the model has is in the files with all of its tensors, and no other one.

    Raises:
        IncompleteError: an expert is missing, lacks a tensor, or is one too many.

    """
    expected = {} if placed is None else _expected_experts(placed)
    for holder, group in files.experts.items():
        for rest, first in group.first.items():
            there = f"{holder}experts of {files.source}"
            number = group.gap(rest)
            if number is not None:
                raise IncompleteError(
                    f"Expert {number} of {there} has no {rest}, which {len(group.numbers[rest])} of its siblings have: "
                    "it was cut out, or its shard is of another save; get the checkpoint again."
                )
            _refuse_unlike_layers(files, rest, first, placed)
            _refuse_unlike(files, group, rest, len(placed.targets.get(first, ())) if placed else 1)
            count = len(set(group.numbers[rest]))
            target, wanted = expected.get(first, ("", 0))
            if not target:
                wanted = max(len(set(numbers)) for numbers in group.numbers.values())
            if count != wanted and count not in _with_parameters(files.config):
                stacked = bool(target) and OF_ONE_EXPERT.search(target) is None
                by_config = files.by_config(target, (count,), (wanted,)) if stacked else "by config.json"
                by_config = by_config if target else "by their siblings"
                raise IncompleteError(
                    f"The files hold {count} experts below {there} ({rest}), and {wanted} {by_config}: "
                    f"{shape_reason((count,), (wanted,))}."
                )


def _refuse_unlike_layers(files: Files, rest: str, first: str, placed: Placement | None) -> None:
    """Where no model class says how large an expert is, the layers must agree."""
    if placed is not None or first not in files.headers:
        return
    names = [group.first[rest] for group in files.experts.values() if rest in group.first]
    shapes = Counter(files.headers[name].shape for name in names if name in files.headers)
    usual, count = shapes.most_common(1)[0]
    shape = files.headers[first].shape
    if shape != usual and count > shapes[shape]:
        raise IncompleteError(
            f"{first} of {files.source} is {list(shape)}, and those of {count} other layers are {list(usual)}: "
            f"{shape_reason(shape, usual, by_expert=False)}."
        )


def _refuse_unlike(files: Files, group: StoredExperts, rest: str, parts: int) -> None:
    """Experts of one layer have one shape, unless they are taken apart by kind (Ernie's for text and for images)."""
    shapes = {name: files.headers[name].shape for name in group.names(rest) if name in files.headers}
    usual = Counter(shapes.values()).most_common(1)
    for name, shape in shapes.items() if parts < 2 else ():
        if shape != usual[0][0]:
            raise IncompleteError(
                f"{name} of {files.source} is {list(shape)}, and {usual[0][1]} of its siblings are "
                f"{list(usual[0][0])}: {shape_reason(shape, usual[0][0], by_expert=False)}."
            )


def _with_parameters(config: Mapping[str, Any]) -> list[int]:
    """Number of experts that have parameters, in a config that has others besides (LongCat's zero experts)."""
    if not any(type(config.get(key)) is int and config[key] > 0 for key in ("zero_expert_num", "num_zero_experts")):
        return []
    return [config[key] for key in ("n_routed_experts", "num_experts") if type(config.get(key)) is int]


def _named(source: ModuleTensor) -> str:
    same = source.stored == source.name
    return source.stored if same else f"{source.stored} (in transformers {source.name})"


def _shape(
    sources: Sequence[ModuleTensor], files: Files, known: "dict[Any, tuple[int, ...]]"
) -> tuple[int, ...] | None:
    """Shape of the model's tensor that the stored ones make; None where only their model could tell.

    ``known`` keeps what was found, since all layers are alike.

    Raises:
        RuntimeError: they do not fit together.

    """
    first = sources[0]
    if first.converter is None:
        return files.headers[first.stored].shape if len(sources) == 1 else None
    parts: list[tuple[ModuleTensor, list[tuple[int, ...]]]] = []
    for source in sources:
        names = _siblings(source.stored, files) or [source.stored]
        if len(names) > 1 and len(source.converter.target_patterns) > 1:
            return None  # experts of two kinds, of two shapes
        if any(name not in files.headers for name in names):
            return None
        parts.append((source, [files.headers[name].shape for name in names]))
    key = (id(first.converter), first.part, *((source.pattern, *shapes) for source, shapes in parts))
    if key not in known:
        empty = [(source, [torch.empty(shape, device="meta") for shape in shapes]) for source, shapes in parts]
        try:
            known[key] = tuple(put_together(empty).shape)
        except ValueError:
            return None
    return known[key]


def _refuse_other_size(files: Files, placed: Placement, target: str, sources: Sequence[ModuleTensor]) -> None:
    """Where tensors are put together or taken apart, their numbers of entries must come out even."""
    together = {source.stored for source in sources}
    targets = {name for stored in together for name in placed.targets[stored]}
    everyone = [sibling for name in together for sibling in _siblings(name, files) or [name]]
    if any(name not in files.headers for name in everyone):
        return
    stored = sum(prod(files.headers[name].shape) for name in everyone)
    expected = sum(prod(placed.empty[name].shape) for name in targets)
    # transformers keeps a place in the stacked tensors for experts without parameters, which some files leave out.
    fewer = [expected // placed.empty[target].shape[0] * count for count in _with_parameters(files.config)]
    if stored not in (expected, *fewer):
        raise IncompleteError(
            f"{target} of {files.source} would be made of {stored:,} numbers in the files ({min(together)} "
            f"{list(files.headers[min(together)].shape)}{', ...' if len(together) > 1 else ''}), and by config.json it "
            f"has {expected:,} ({list(placed.empty[target].shape)}): the two belong to different models, or experts "
            "were pruned or resized without changing config.json."
        )


def _siblings(name: str, files: Files) -> list[str]:
    """All names for which this one stands; none for a tensor that is not one of single experts."""
    holder, found, _ = name.partition("experts.")
    group = files.experts.get(holder) if found else None
    rest = next((rest for rest, first in group.first.items() if first == name), None) if group else None
    return group.names(rest) if group is not None and rest is not None else []


def _expected_experts(placed: Placement) -> dict[str, tuple[str, int]]:
    """Stored name of an expert's tensor, of the first that has it -> the model's tensor and number of experts."""
    modules = {holder: group.count for holder, group in fold_experts(placed.empty)[1].items()}
    found: dict[str, tuple[str, int]] = {}
    for target, sources in placed.sources.items():
        holder, single, below = target.partition("experts.")
        one_by_one = single and below.partition(".")[0].removeprefix("expert_").isdecimal()
        for source in sources:
            if ".experts." not in f".{source.stored}":
                continue
            if one_by_one:
                found[source.stored] = (target, modules[holder])
            elif source.converter is not None and len(source.converter.target_patterns) == 1:
                found[source.stored] = (target, _first_size(placed.empty[target]))
    return found


def _first_size(tensor: "Tensor") -> int:
    return int(tensor.shape[0]) if tensor.ndim else 0
