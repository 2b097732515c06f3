"""Find every routed site of a model: the router, the experts that it feeds, and what stands beside them."""

import re
from dataclasses import dataclass

from torch import nn

from moeprobe.checkpoint.spread import is_spread_tensor
from moeprobe.routers import families as _  # noqa: F401  registers the readers of the odd families
from moeprobe.routers.declared import declared_routers
from moeprobe.routers.readers import Reader, reader_of
from moeprobe.routers.wrapped import by_path, inner

ROUTER_NAME = re.compile(r"^(gate|router|wg|gating|gate_network|gating_network)$")
_ROUTER_CLASS = re.compile(r"(router|gate|gating)", re.IGNORECASE)
_NOT_ROUTED = (nn.Linear, nn.Embedding)
SHARED_GATE = re.compile(r"shared.*gate")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.|$)")


@dataclass(frozen=True, eq=False)
class Site:
    """One gate in a live model.

    ``router`` chooses, ``experts`` is the module that executes the choice (None for a gate on its own),
    ``block`` holds both, ``shared`` is the always-active expert beside them and ``shared_gate`` its own gate.
    ``norms`` are the candidates for the norm whose output the block reads: path and module. ``expert_modules``
    are the experts where each is a module of its own, ``reader`` how the router is read if its class has one.

    Modules are those that the model calls: where a wrapper stands in front of one, the wrapper (``routers.wrapped``).
    """

    path: str
    layer: int | None
    router: nn.Module
    logits_index: int | None
    experts: nn.Module | None
    block: nn.Module | None
    shared_name: str | None
    shared: nn.Module | None
    shared_gate: nn.Module | None
    norms: tuple[tuple[str, nn.Module], ...]
    declared: bool
    expert_modules: tuple[nn.Module, ...] = ()
    reader: Reader | None = None

    @property
    def branch(self) -> tuple[nn.Module, ...]:
        """The modules whose outputs add up to the routed branch; () where there are none that are called.

        A list of experts is never called itself, and Doge's experts are rows of an embedding.
        """
        if self.experts is None or (self.reader is not None and self.reader.is_block):
            return ()
        listed = type(inner(self.experts)).forward in (nn.ModuleList.forward, nn.ModuleDict.forward)
        return self.expert_modules if listed else (self.experts,)


def find_sites(model: nn.Module) -> list[Site]:
    """All routed sites of ``model`` in the order of its modules; works on the meta device.

    A router is what has a reader, what transformers declares (class of ``router_logits``), and beside that every
    module that stands next to the experts (a child named ``experts``, or a list of modules with *expert* in its
    name that is not shared) under a router's name or class name: the declaration is incomplete (DeepSeek-V4's hash
    routers are missing from it). A declared block that holds other routers is not one itself. A model without any
    of these, such as a gate on its own, is searched for modules whose class is named like a gate.
    """
    modules = by_path(model)
    classes, class_names = declared_routers(model)
    found: dict[str, tuple[nn.Module, int | None, bool]] = {}
    for path, module in modules.items():
        core = inner(module)
        if type(core) in classes:
            found[path] = (module, classes[type(core)], True)
        elif type(core).__name__ in class_names:
            found[path] = (module, None, True)
        elif reader_of(core) is not None or _stands_beside_experts(path, core, modules):
            found[path] = (module, None, False)
    if not found:
        found = {
            path: (module, None, False)
            for path, module in modules.items()
            if _ROUTER_CLASS.search(type(inner(module)).__name__) and not isinstance(inner(module), _NOT_ROUTED)
        }
    holders = {holder for path in found for holder in _holders(path)}
    return [_site(path, *entry, modules) for path, entry in found.items() if path not in holders]


def layer_of(path: str) -> int | None:
    """Index of the decoder layer in a module path, None where it has none."""
    match = _LAYER.search(path)
    return int(match.group(1)) if match else None


def expert_count(site: Site, columns: int) -> int:
    """Number of experts with parameters, on all processes together, at most the width of the logits."""
    # Where experts are spread over processes, their module's own number is that of the experts of this process.
    spread = [p.shape[0] for p in site.experts.parameters() if is_spread_tensor(p)] if site.experts is not None else []
    if spread and max(spread) <= columns:
        return max(spread)
    for holder in (None if site.experts is None else inner(site.experts), inner(site.router)):
        for name in ("num_routed_experts", "num_experts"):
            count = getattr(holder, name, None)
            if isinstance(count, int) and 0 < count <= columns:
                return count
    return min(columns, len(site.expert_modules)) or columns


def _holders(path: str) -> list[str]:
    """Paths of all modules that hold the module at ``path``, the model itself left out."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _stands_beside_experts(path: str, module: nn.Module, modules: dict[str, nn.Module]) -> bool:
    if not path:
        return False
    name, experts = path.rpartition(".")[2], _experts_name(inner(modules[_parent(path)]))
    if experts is None or name == experts or SHARED_GATE.search(name):
        return False
    return bool(ROUTER_NAME.match(name)) or bool(re.search(r"router", type(module).__name__, re.IGNORECASE))


def _site(path: str, router: nn.Module, index: int | None, declared: bool, modules: dict[str, nn.Module]) -> Site:
    block_path = _parent(path)
    block = modules[block_path] if path else None
    shared_name, shared = _shared(block_path, modules) if block is not None else (None, None)
    gate = next(
        (child for name, child in inner(block).named_children() if SHARED_GATE.search(name))
        if block is not None
        else iter(()),
        None,
    )
    reader = reader_of(inner(router))
    experts = _experts(path, block_path, reader, modules) if block is not None else None
    return Site(
        path=path,
        layer=layer_of(path),
        router=router,
        logits_index=index,
        experts=experts,
        block=block,
        shared_name=shared_name,
        shared=shared,
        shared_gate=gate,
        norms=_norms(block_path, modules) if block is not None and block_path else (),
        declared=declared,
        expert_modules=_expert_modules(experts),
        reader=reader,
    )


def _experts(path: str, block_path: str, reader: Reader | None, modules: dict[str, nn.Module]) -> nn.Module | None:
    if reader is None:
        name = _experts_name(inner(modules[block_path]))
        return modules.get(_join(block_path, name)) if name else None
    return modules.get(path + reader.experts if reader.is_block else _join(block_path, reader.experts))


def _experts_name(block: nn.Module) -> str | None:
    """Name of the child that holds the routed experts, None where there is none."""
    children = dict(block.named_children())
    if "experts" in children:
        return "experts"
    lists = (name for name, child in children.items() if isinstance(inner(child), nn.ModuleList | nn.ModuleDict))
    return next((name for name in lists if "expert" in name and "shared" not in name), None)


def _expert_modules(experts: nn.Module | None) -> tuple[nn.Module, ...]:
    """The experts one by one, by the number in their names, where each is a module; () where they are stacked."""
    core = None if experts is None else inner(experts)
    for holder in (core, *(map(inner, core.children()) if core is not None else ())):
        if isinstance(holder, nn.ModuleList | nn.ModuleDict):
            # Other children may stand among them, as the token dropout of NLLB does.
            numbered = [
                (int(digits[-1]), module)
                for name, module in holder.named_children()
                if (digits := re.findall(r"\d+", name))
            ]
            if numbered:
                return tuple(module for _, module in sorted(numbered, key=lambda entry: entry[0]))
    return ()


def _shared(block_path: str, modules: dict[str, nn.Module]) -> tuple[str | None, nn.Module | None]:
    """The shared expert is a child of the block, or (Granite) a sibling of it in the decoder layer."""
    for holder in (block_path, _parent(block_path)):
        for name, child in inner(modules[holder]).named_children():
            if name.startswith("shared") and not SHARED_GATE.search(name):
                return name, child
    return None, None


def _norms(block_path: str, modules: dict[str, nn.Module]) -> tuple[tuple[str, nn.Module], ...]:
    holder = _parent(block_path)
    return tuple(
        (_join(holder, name), child)
        for name, child in inner(modules[holder]).named_children()
        if "norm" in type(inner(child)).__name__.lower()
    )
