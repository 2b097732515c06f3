"""Readers: how the routers are read whose output is not of a common form, and how users add their own.

import moeprobe

def read(module, args, kwargs, output):
return moeprobe.Routing(experts=output.chosen, weights=output.gates, logits=output.logits)

moeprobe.register_router("MyRouter", read, experts="ffn_experts")
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from moeprobe.errors import OptionError
from moeprobe.routers.routing import Routing

Read = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Routing]
"""(router module, its args, its kwargs, its output) -> what it decided."""
Executed = Callable[[tuple[Any, ...], dict[str, Any], Tensor, Routing], bool]
"""(args of the experts, their kwargs, the router's input [rows, hidden], what it decided) -> whether that ran."""


@dataclass(frozen=True)
class Reader:
    """How one class of router is read.

    ``experts`` is the path of the module that executes the choice, from the router's parent (``.name``: from the
    router itself, where the router is a whole block). ``executed`` compares its arguments with what was decided,
    where they do not hold experts and weights. ``logits`` says what ``Routing.logits`` holds.
    """

    read: Read
    experts: str = "experts"
    executed: Executed | None = None
    logits: str = "returned"

    @property
    def is_block(self) -> bool:
        """Whether the router is a whole block, its experts inside it."""
        return self.experts.startswith(".")


_READERS: dict[str, Reader] = {}


def register_router(
    router: type[nn.Module] | str,
    read: Read,
    *,
    experts: str = "experts",
    executed: Executed | None = None,
    logits: str = "returned",
) -> None:
    """Tell moeprobe how to read a class of routers; a later registration replaces an earlier one.

    Args:
        router: the class, or its name where it cannot be imported (code that comes with a checkpoint).
        read: called after every forward pass of such a module with (module, args, kwargs, output); returns a
            ``Routing``: experts [rows, k] with -1 in unused slots, weights [rows, k], logits [rows, columns] or
            None. It must not change its arguments.
        experts: path of the module that executes the choice, from the router's parent; from the router itself
            with a leading dot. Its arguments are compared with what ``read`` returned.
        executed: does that comparison where the arguments are not experts and weights.
        logits: what the logits are, in words, for reports.

    Raises:
        OptionError: ``read`` cannot be called, or ``router`` is neither a class nor a name.

    """
    name = router if isinstance(router, str) else getattr(router, "__name__", "")
    if not name or not callable(read):
        raise OptionError("register_router takes a router class (or its name) and a function that reads its output.")
    _READERS[name] = Reader(read, experts, executed, logits)


def reader_of(module: nn.Module) -> Reader | None:
    """The reader of this module's class or of its nearest ancestor class, None where it has none."""
    for ancestor in type(module).__mro__:
        if ancestor.__name__ in _READERS:
            return _READERS[ancestor.__name__]
    return None
