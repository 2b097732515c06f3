"""Pristine: the router class that transformers itself has for a model, as its file holds it.

What ran may be a copy of that class, a subclass of it, or the class with another forward pass put in its place. The
file of the installed package is the reference: where the imported class has a forward pass from elsewhere, the file
is read once more beside it. Only transformers' own files are, never code that came with a checkpoint.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

from moeprobe.routers.declared import declared_by_class

_MODELS = "transformers.models."


def pristine_class(router: nn.Module, config: Any) -> type[nn.Module] | None:
    """The class of transformers that stands at this place in the family's own model, None where it is not known.

    Args:
        router: the module that ran.
        config: the model's config; where the class of the router is not from transformers, the type of the config
            says which family's code to look in. A class of the same name is taken, else the only one that the
            family declares as its router.

    """
    for ancestor in type(router).__mro__:
        if ancestor.__module__.startswith(_MODELS):
            return _as_filed(sys.modules.get(ancestor.__module__), ancestor.__name__)
    for module in _modeling(config):
        names = {found.__name__ for found in _declared(module)}
        name = type(router).__name__
        if isinstance(getattr(module, name, None), type):
            return _as_filed(module, name)
        if len(names) == 1:
            return _as_filed(module, names.pop())
    return None


def _modeling(config: Any) -> Iterator[ModuleType]:
    """The modules with the code of a config's family: of its text model first, then of the whole."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for one in (text, config):
        for ancestor in type(one).__mro__:
            name = ancestor.__module__
            if name.startswith(_MODELS) and ".configuration_" in name:
                try:
                    yield importlib.import_module(name.replace(".configuration_", ".modeling_"))
                except ImportError:
                    continue


def _declared(module: ModuleType) -> set[type]:
    """The router classes that the models of a module declare."""
    found: set[type] = set()
    for model in vars(module).values():
        if isinstance(model, type) and model.__module__ == module.__name__:
            found |= {one for one in declared_by_class(model) if one.__module__ == module.__name__}
    return found


def _as_filed(module: ModuleType | None, name: str) -> type[nn.Module] | None:
    """The class of a module as its file has it."""
    if module is None or not getattr(module, "__file__", None):
        return None
    imported = getattr(module, name, None)
    if _is_as_filed(imported, module):
        return imported
    fresh = _read_again(module)
    found = getattr(fresh, name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _is_as_filed(found: Any, module: ModuleType) -> bool:
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        return False
    forward = inspect.unwrap(found.forward)
    code = getattr(forward, "__code__", None)
    return code is not None and code.co_filename == module.__file__ and found.__module__ == module.__name__


_AGAIN: dict[str, ModuleType | None] = {}


def _read_again(module: ModuleType) -> ModuleType | None:
    """The module made anew from its file, beside the imported one, which stays as it is."""
    name = module.__name__
    if name not in _AGAIN:
        # The name stays within the package, so that relative imports are found.
        spec = importlib.util.spec_from_file_location(f"{name}_as_filed", str(module.__file__))
        fresh = None
        if spec is not None and spec.loader is not None:
            fresh = importlib.util.module_from_spec(spec)
            sys.modules[fresh.__name__] = fresh
            try:
                spec.loader.exec_module(fresh)
            except Exception:
                # What a second reading of it trips over is not known here, and without it there is no reference.
                fresh = None
            finally:
                sys.modules.pop(f"{name}_as_filed", None)
        _AGAIN[name] = fresh
    return _AGAIN[name]
