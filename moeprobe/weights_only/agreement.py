"""Held against the config's numbers and against each other: routers of a model type that transformers does not have.

No model class says what must be there, so the config's arithmetic does (which layers are routed, how many experts, how
wide), and what the layers agree on: a layer unlike all others is broken, not special, unless it is a hash layer.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from moeprobe.checkpoint.names import ModuleTensor
from moeprobe.checkpoint.quantised.naming import OF_INPUTS, plain_name
from moeprobe.checkpoint.reasons import LIKE_ROUTING, shape_reason
from moeprobe.checkpoint.unread import further_layers
from moeprobe.errors import IncompleteError
from moeprobe.routers.find import layer_of
from moeprobe.routers.still import SELECTION_BIAS
from moeprobe.routers.stored_sites import StoredSite
from moeprobe.weights_only.required import Files
from moeprobe.weights_only.routed_layers import routed_layers, said_by

_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_routed_experts")
_MORE_ROWS = ("zero_expert_num", "num_zero_experts", "n_shared_experts")
"""Numbers of experts that may have rows of the gate beside those of the routed ones."""
_CODES = re.compile(r"^(U|I|F4|F6|BOOL)")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed.weight")
_TABLE = "tid2eid"


def beyond(sites: Sequence[StoredSite], text: Mapping[str, Any]) -> list[StoredSite]:
    """The routers of layers behind the decoder's last one, where the config has layers of multi-token prediction."""
    further = further_layers(text)
    return [site for site in sites if site.layer is not None and site.layer in further]


def refuse_gaps(
    files: Files, sites: Sequence[StoredSite], tensors: Collection[ModuleTensor], text: Mapping[str, Any]
) -> None:
    """Do nothing if every block with experts, and every layer that the config calls routed, has a router.

    Args:
        files: what the files say.
        sites: the routers that were found, without those ``beyond`` the decoder.
        tensors: all tensors by their names in the modules.
        text: the part of config.json about the language model.

    Raises:
        IncompleteError: a router is missing.

    """
    routed = {site.path.rpartition(".")[0] for site in sites}
    bare = next((block for block in _blocks(tensors) if block not in routed), None)
    if bare is not None:
        raise IncompleteError(
            f"{bare} of {files.source} holds experts and no gate: it was cut out, has a name of another framework, or "
            "was saved on another process without being gathered; get the checkpoint again, or save it again whole."
        )
    expected = routed_layers(text)
    found = {site.layer for site in sites if site.layer is not None}
    if expected is None or len(_stacks(sites)) != 1:
        return
    if lost := sorted(set(expected) - found):
        gate = any(layer_of(tensor.name) == lost[0] and LIKE_ROUTING.search(tensor.name) for tensor in tensors)
        raise IncompleteError(
            f"Layer {lost[0]} of {files.source} is routed by config.json ({said_by(text)}), and the files hold no "
            f"{'experts' if gate else 'gate'} for it ({len(lost)} such layers); get the checkpoint again, or correct "
            "config.json."
        )
    if extra := sorted(found - set(expected)):
        raise IncompleteError(
            f"The files of {files.source} hold a gate in layer {extra[0]}, which is not routed by config.json "
            f"({said_by(text)}); the two belong to different models."
        )


def refuse_unlike(files: Files, sites: Sequence[StoredSite], text: Mapping[str, Any]) -> None:
    """Do nothing if all routers are made of the same tensors, of the shapes that the config gives.

    Raises:
        IncompleteError: one is made of others, or has another shape.

    """
    kinds = Counter(_kind(site) for site in sites)
    for site in sites:
        own = _kind(site)
        usual = max((kind for kind in kinds if _hashed(kind) == _hashed(own)), key=lambda kind: kinds[kind])
        if kinds[usual] > kinds[own]:
            lost, extra = sorted(usual - own), sorted(own - usual)
            parts = [f"lacks {', '.join(lost)}" if lost else "", f"has {', '.join(extra)}" if extra else ""]
            raise IncompleteError(
                f"{site.path} of {files.source} {' and '.join(filter(None, parts))}, unlike {kinds[usual]} other "
                "routers: it was cut out, or comes from another save or framework; get the checkpoint again."
            )
    for site in sites:
        _refuse_gate(files, site, text)
        _refuse_biases(files, site, text)
        _refuse_experts(files, site, text)
        _refuse_no_bias(files, site, text)


def _refuse_gate(files: Files, site: StoredSite, text: Mapping[str, Any]) -> None:
    name = _gate(files, site)
    if name is None:
        return
    shape = files.headers[name].shape
    rows, width = _rows(text, site), text.get("hidden_size")
    wide = width if type(width) is int else None
    where = f"{name} of {files.source} is {list(shape)}"
    if len(shape) != 2 or 0 in shape:
        expected = [*rows[:1], *([wide] if wide else [])]
        raise IncompleteError(f"{where} and no matrix [experts, hidden size]: {shape_reason(shape, expected)}.")
    if rows and shape[0] not in rows:
        reason = shape_reason(shape, (rows[0], wide or shape[1]))
        raise IncompleteError(f"{where}, and by config.json there are {rows[0]} experts: {reason}.")
    if wide and shape[1] != wide and shape[1] not in _widths(files):
        reason = shape_reason(shape, (shape[0], wide))
        raise IncompleteError(f"{where}, and by config.json hidden_size is {wide}: {reason}.")


def _refuse_biases(files: Files, site: StoredSite, text: Mapping[str, Any]) -> None:
    gate = _gate(files, site)
    rows = [files.headers[gate].shape[0] if gate else 0, *_rows(text, site)]
    for name, tensor in [*site.own.items(), *site.beside.items()]:
        header = files.headers.get(tensor.stored)
        if "bias" not in name or header is None or gate is None:
            continue
        if _CODES.match(header.dtype) or header.dtype.startswith("C"):
            raise IncompleteError(
                f"{tensor.stored} of {files.source} is stored as {header.dtype}, and a bias holds numbers with "
                "fractions: it was cast or converted wrongly; get the checkpoint again."
            )
        # Ernie keeps its bias as [1, columns].
        entries = max(header.shape, default=0)
        if entries not in rows or prod(header.shape) != entries:
            raise IncompleteError(
                f"{tensor.stored} of {files.source} is {list(header.shape)} and belongs to a gate of {rows[0]} rows: "
                f"{shape_reason(header.shape, rows[:1])}."
            )


def _refuse_experts(files: Files, site: StoredSite, text: Mapping[str, Any]) -> None:
    count = next((text[key] for key in _EXPERTS if type(text.get(key)) is int), None)
    if count is not None and site.experts is not None and site.experts != count:
        raise IncompleteError(
            f"The files of {files.source} hold {site.experts} experts next to {site.path}, and by config.json there "
            f"are {count}: {shape_reason((site.experts,), (count,))}."
        )


def _refuse_no_bias(files: Files, site: StoredSite, text: Mapping[str, Any]) -> None:
    """DeepSeek's ``topk_method: noaux_tc`` is the selection bias; without one the routers choose other experts."""
    held = any(SELECTION_BIAS.search(name) for name in (*site.own, *site.beside))
    if text.get("topk_method") == "noaux_tc" and not held and not _hashed(frozenset(site.own)):
        raise IncompleteError(
            f"{site.path} of {files.source} has no e_score_correction_bias, the selection bias that topk_method "
            "noaux_tc of config.json needs: it was cut out, or gate or bias have names of another framework; get the "
            "checkpoint again, or convert it again."
        )


def _gate(files: Files, site: StoredSite) -> str | None:
    """Stored name of the only weight of the router, where it is stored as numbers and its header is known."""
    weights = [tensor.stored for name, tensor in site.own.items() if name.endswith("weight")]
    header = files.headers.get(weights[0]) if len(weights) == 1 else None
    return None if header is None or _CODES.match(header.dtype) else weights[0]


def _blocks(tensors: Collection[ModuleTensor]) -> Iterator[str]:
    """Paths of the blocks that hold experts."""
    for tensor in tensors:
        parts = tensor.name.split(".")
        if "experts" in parts[1:-1] and layer_of(tensor.name) is not None:
            yield ".".join(parts[: parts.index("experts", 1)])


def _stacks(sites: Sequence[StoredSite]) -> set[str]:
    """Where the layers are: the path before their number."""
    return {re.split(r"\.\d+\.", site.path, maxsplit=1)[0] for site in sites if site.layer is not None}


def _kind(site: StoredSite) -> frozenset[str]:
    """Names of a router's own tensors and of the biases next to it; a quantised one is named like the plain one."""
    own = [plain_name(name)[0] for name in site.own if OF_INPUTS.search(name) is None]
    return frozenset([*own, *(name for name in site.beside if "bias" in name)])


def _hashed(kind: frozenset[str]) -> bool:
    return any(_TABLE in name for name in kind)


def _rows(text: Mapping[str, Any], site: StoredSite) -> list[int]:
    """Rows that a gate may have: experts, with or without those that have no parameters or are shared."""
    count = next((value for key in _EXPERTS if type(value := text.get(key)) is int), site.experts)
    if count is None:
        return []
    more = [value for key in _MORE_ROWS if type(value := text.get(key)) is int]
    return list(dict.fromkeys([count, *(count + value for value in more), count + sum(more)]))


def _widths(files: Files) -> set[int]:
    """Widths of the embeddings whose header is known: a gate may read another stream than the config says."""
    return {
        header.shape[1]
        for name, header in files.headers.items()
        if name.endswith(_EMBEDDINGS) and len(header.shape) == 2
    }
