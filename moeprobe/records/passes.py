"""Passes: where a forward pass of a model begins and ends.

A model behind PEFT is called in two ways: forward() goes through PEFT's module and calls the model's own forward
without its hooks, generate() calls the model itself. The outermost of the modules that are called is the pass.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from moeprobe.errors import RecordingError
from moeprobe.routers.wrapped import entrances, inner


class _Running(threading.local):
    """The module through which this thread's forward pass began, None between two passes."""

    def __init__(self) -> None:
        self.root: nn.Module | None = None


class Passes:
    """Calls ``begins`` and ``ends`` around every forward pass of ``model``, in the thread that runs it."""

    def __init__(self, model: nn.Module, begins: Callable[[], None], ends: Callable[[], None]) -> None:
        self._modules = entrances(model)
        self._begins, self._ends = begins, ends
        self._running = _Running()
        self._name = type(inner(model)).__name__
        self._began = False
        self.routed = False
        """Whether a router has been called."""

    def nothing_seen(self) -> str:
        """Say that no router was called, and what that means."""
        if self._began:
            return (
                f"{self._name} ran, and none of its routers was called: something else runs in their place (an "
                "exported graph, a fused kernel). Nothing was recorded; record the model as its own code made it."
            )
        return (
            f"{self._name} was not called while it was recorded, so nothing was recorded. Call the model that was "
            "given to moeprobe.record inside the block; a copy of it, or an exported version, has no hooks."
        )

    def attach_begin(self) -> list[RemovableHandle]:
        """Register the hooks that begin a pass; before any other hook."""
        return [module.register_forward_pre_hook(self._enter, prepend=True) for module in self._modules]

    def attach_end(self) -> list[RemovableHandle]:
        """Register the hooks that end one; after any other hook."""
        handles = [module.register_forward_hook(self._leave) for module in self._modules]
        return handles + [module.register_forward_hook(self._left, always_call=True) for module in self._modules]

    def _enter(self, module: nn.Module, _args: Any) -> None:
        if self._running.root is None or self._running.root is module:
            self._running.root = module
            self._began = True
            self._begins()

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if module is self._running.root:
            self._ends()

    def _left(self, module: nn.Module, *_: Any) -> None:
        if module is self._running.root:
            self._running.root = None


def refuse_unhooked(model: nn.Module) -> None:
    """Do nothing if hooks see what ``model`` does.

    Raises:
        RecordingError: it runs outside of Python, or as copies.

    """
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    if scripted:
        raise RecordingError(
            f"{type(model).__name__} is, or holds, a TorchScript module (torch.jit.script or trace), which runs "
            "outside of Python and calls no hooks; record the model that it was made from."
        )
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise RecordingError(
            "DataParallel runs copies of the model, one on each device; record the model itself (model.module)."
        )
