"""Find the routers of a checkpoint by the names of its tensors alone: no module, no shape, no family.

A router stands beside experts (``mlp.gate`` beside ``mlp.experts``), or is called a router. Names are those of
the modules (``checkpoint.names``), so the paths are those that the loaded model has.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from moeprobe.checkpoint.names import ModuleTensor
from moeprobe.routers.find import ROUTER_NAME, SHARED_GATE, layer_of

_NORM = re.compile(r"(post_attention_layernorm|ffn_norm|pre_(feedforward|mlp)_(layer)?norm|post_attention_norm)$")


_EXPERTS = re.compile(r"\.(?:experts|switch_mlp|switch_glu)\.")
"""What the experts of a block are called, the latter two by MLX."""


@dataclass(frozen=True, eq=False)
class StoredSite:
    """One router in the files.

    ``own`` are the tensors below its path, ``beside`` those that stand directly in its block, both by their names
    there. ``experts`` is how many experts are stored one by one in the block (None where they are stacked), ``norm``
    the weight of the norm whose name says that it stands before the block. ``shapes`` are those of the model's tensors
    below the path, where its class is known.
    """

    path: str
    layer: int | None
    own: dict[str, ModuleTensor] = field(default_factory=dict)
    beside: dict[str, ModuleTensor] = field(default_factory=dict)
    experts: int | None = None
    shared_name: str | None = None
    shared_gate: bool = False
    norm: ModuleTensor | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def find_stored_sites(tensors: Collection[ModuleTensor], stored_experts: dict[str, int]) -> list[StoredSite]:
    """All routers, in the order of their layers.

    Args:
        tensors: the tensors of the modules (experts after the first may be left out).
        stored_experts: how many experts the files hold one by one, by the name up to ``experts.``.

    """
    blocks: dict[str, int | None] = {}
    for tensor in tensors:
        if (place := _EXPERTS.search(tensor.name)) is not None:
            whole = tensor.converter is None or len(tensor.converter.target_patterns) == 1
            known = stored_experts.get(tensor.stored.partition("experts.")[0]) if whole else None
            block = tensor.name[: place.start()]
            blocks[block] = blocks.get(block) or known
    own: dict[str, dict[str, ModuleTensor]] = {}
    for tensor in tensors:
        if (path := _router_path(tensor.name, blocks)) is not None:
            own.setdefault(path, {})[tensor.name.removeprefix(f"{path}.")] = tensor
    children = _children(tensors, {above for path in own for above in _above(path)})
    sites = {path: _site(path, found, blocks, children) for path, found in own.items()}
    return sorted(sites.values(), key=lambda site: (site.layer is None, site.layer or 0))


def _router_path(name: str, blocks: Collection[str]) -> str | None:
    """Path of the router that holds this tensor, None where none does."""
    parts = name.split(".")
    for place, part in enumerate(parts[1:-1], 1):
        if part == "router" or ROUTER_NAME.match(part):
            block = ".".join(parts[:place])
            if part == "router" or block in blocks:
                return f"{block}.{part}"
    return None


def _above(path: str) -> tuple[str, str]:
    """Paths of the router's block, and of the layer that holds it."""
    block = path.rpartition(".")[0]
    return block, block.rpartition(".")[0]


def _children(tensors: Collection[ModuleTensor], holders: Collection[str]) -> dict[str, dict[str, ModuleTensor]]:
    """The tensors below each of these paths, by their names there."""
    found: dict[str, dict[str, ModuleTensor]] = {}
    depths = {holder.count(".") + 1 for holder in holders if holder}
    for tensor in tensors:
        parts = tensor.name.split(".")
        for depth in depths:
            if (holder := ".".join(parts[:depth])) in holders:
                found.setdefault(holder, {})[".".join(parts[depth:])] = tensor
    return found


def _site(
    path: str,
    own: dict[str, ModuleTensor],
    blocks: dict[str, int | None],
    children: dict[str, dict[str, ModuleTensor]],
) -> StoredSite:
    block, holder = _above(path)
    inside, around = children.get(block, {}), children.get(holder, {})
    shared = [name.split(".")[0] for name in (*inside, *around) if name.startswith("shared")]
    norms = [tensor for name, tensor in around.items() if _is_norm(name)]
    return StoredSite(
        path=path,
        layer=layer_of(path),
        own=own,
        beside={name: tensor for name, tensor in inside.items() if "." not in name},
        experts=blocks.get(block),
        shared_name=next((name for name in shared if not SHARED_GATE.search(name)), None),
        shared_gate=any(SHARED_GATE.search(name.split(".")[0]) for name in inside),
        norm=norms[0] if len(norms) == 1 else None,
    )


def _is_norm(name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and _NORM.match(module) is not None
