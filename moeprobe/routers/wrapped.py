"""Wrappers: modules that stand in front of another one and are none themselves.

``torch.compile``, data parallelism and PEFT put a module in the place of another. What the model calls is the
outermost, so hooks go there; what it is (its class, its tensors, its children) the innermost says. Paths leave all of
them out: a router has the same path whether its model is compiled, tuned or neither. PEFT's classes are told by name,
since nothing else needs that package.
"""

from collections.abc import Iterator

import torch
from torch import nn

_PARALLEL = {"DataParallel", "DistributedDataParallel", "DeepSpeedEngine", "AveragedModel"}
_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def inner(module: nn.Module) -> nn.Module:
    """The module itself behind all wrappers; of copies for training, the one that runs now."""
    while (below := _below(module)) is not None:
        module = below
    return module


def unframed(model: nn.Module) -> nn.Module:
    """The model behind compilation and data parallelism, which call it as a module; adapters stay around it."""
    while (below := _framed(model)) is not None:
        model = below
    return model


def entrances(model: nn.Module) -> list[nn.Module]:
    """The modules through which a forward pass of ``model`` may begin, outermost first: adapters, and the model."""
    found = [unframed(model)]
    while (below := _below(found[-1])) is not None:
        found.append(below)
    return [module for module in found if _framed(module) is None]


def by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of ``model`` by its path without wrappers, each once: the outermost module of each place."""
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()

    def walk(path: str, module: nn.Module) -> None:
        core = inner(module)
        if core in seen:
            return
        seen.add(core)
        found[path] = module
        for name, child in core.named_children():
            walk(f"{path}.{name}" if path else name, child)

    walk("", model)
    return found


def has_wrappers(module: nn.Module) -> bool:
    """Whether the module, or one inside it, is a wrapper."""
    return any(_below(one) is not None for one in module.modules())


def is_adapted(module: nn.Module) -> bool:
    """Whether adapters stand around this very module that change what it computes (not switched off, not merged)."""
    below = _below(module)
    while below is not None:
        if _is_tuner(module) and not getattr(module, "disable_adapters", False) and _unmerged(module):
            return True
        module, below = below, _below(below)
    return False


def adapted_inside(module: nn.Module) -> bool:
    """Whether adapters change what the module or one inside it computes."""
    return any(is_adapted(one) for one in by_path(module).values())


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of a module by their names without wrappers; what wrappers add is left out."""
    if not has_wrappers(module):
        yield from module.named_parameters()
        return
    for path, one in by_path(module).items():
        for name, parameter in inner(one).named_parameters(recurse=False):
            yield f"{path}.{name}" if path else name, parameter


def _below(module: nn.Module) -> nn.Module | None:
    """What the wrapper wraps, None for a module that is no wrapper."""
    found = _framed(module)
    if found is not None:
        return found
    names = {ancestor.__name__ for ancestor in type(module).__mro__}
    children = module._modules
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if "original_module" in children:
        return _running_copy(module)
    if "base_layer" in children and "BaseTunerLayer" in names:
        return children["base_layer"]
    if names & {"PeftModel", "PeftMixedModel"}:
        return children.get("base_model")
    return children.get("model") if "BaseTuner" in names else None


def _framed(module: nn.Module) -> nn.Module | None:
    if isinstance(module, torch.jit.ScriptModule):
        return None
    for name in _INSIDE:
        if (found := module._modules.get(name)) is not None:
            return found
    return module._modules.get("module") if type(module).__name__ in _PARALLEL else None


def _running_copy(module: nn.Module) -> nn.Module | None:
    """Of PEFT's ``modules_to_save``: the original, or the trained copy that is active now."""
    original, copies = module._modules["original_module"], module._modules.get("modules_to_save")
    active = getattr(module, "active_adapters", None) or []
    if getattr(module, "disable_adapters", False) or not active or not isinstance(copies, nn.ModuleDict):
        return original
    found: nn.Module | None = copies._modules.get(active[0], original)
    return found


def _is_tuner(module: nn.Module) -> bool:
    return any(ancestor.__name__ == "BaseTunerLayer" for ancestor in type(module).__mro__)


def _unmerged(module: nn.Module) -> bool:
    merged = set(getattr(module, "merged_adapters", ()) or ())
    return any(adapter not in merged for adapter in getattr(module, "active_adapters", ()) or ())
