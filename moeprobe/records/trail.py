"""Trail: what one batch has been given by each decoder layer, and which of that the rest of its pass may still use."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode


class Trail(TorchFunctionMode):
    """One batch's way through the layers.

    A layer's output that only the next layer has used is of no use once that one has run. It may still be needed if
    something outside of the layers has computed with it, or holds it: these layers are in ``needed``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, list[Any]] = {}
        """By layer, call by call; only those that ``drop`` has not been told of."""
        self._watching = ExitStack()
        self._given: dict[int, list[StorageWeakRef]] = {}
        self._used: set[int] = set()
        self._first: dict[str, dict[Any, Any]] = {}
        self._shared: dict[str, MutableMapping[Any, Any]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if self._given:
            seen = {tensor.untyped_storage()._cdata for tensor in _tensors([args, given])}
            self._used |= {
                layer for layer, storages in self._given.items() if any(one.cdata in seen for one in storages)
            }
        return func(*args, **given)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Within this block it watches what the model does, but for the layers: ``enter`` and ``leave``."""
        self._watch(True)
        try:
            yield
        finally:
            self._watch(False)

    def enter(self, arguments: dict[str, MutableMapping[Any, Any]]) -> None:
        """A layer is called; ``arguments`` are the mappings that it is given."""
        self._watch(False)
        for name, mapping in arguments.items():
            self._first.setdefault(name, dict(mapping))
        self._shared = arguments

    def leave(self, layer: int, output: Any) -> None:
        """A layer has returned."""
        self._watch(True)
        self.outputs.setdefault(layer, []).append(output)
        storages = [one.untyped_storage() for one in _tensors(output)]
        self._given.setdefault(layer, []).extend(map(StorageWeakRef, storages))

    def drop(self, layer: int) -> None:
        """The output of a layer is kept elsewhere."""
        self.outputs.pop(layer, None)

    @property
    def shared(self) -> dict[str, dict[Any, Any]]:
        """What layers have written into these mappings since the first layer, by argument and key."""
        changed = {
            name: {key: value for key, value in mapping.items() if self._first[name].get(key) is not value}
            for name, mapping in self._shared.items()
        }
        return {name: values for name, values in changed.items() if values}

    @property
    def needed(self) -> set[int]:
        """Layers whose outputs something outside of the layers has used, or holds."""
        alive = {layer for layer, storages in self._given.items() if not all(map(StorageWeakRef.expired, storages))}
        self._given = {layer: self._given[layer] for layer in alive - self._used}
        return alive | self._used

    def _watch(self, on: bool) -> None:
        # An error inside of a layer leaves it without ``leave``; a mode must not be taken off twice.
        self._watching.close()
        if on:
            self._watching.enter_context(self)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [] if value.is_meta else [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [one for part in value for one in _tensors(part)] if isinstance(value, tuple | list) else []
