"""LayerStops: hooks at which every batch waits before each decoder layer, and by which it takes along what it gave.

Layers that an earlier run has finished are not run again: they give what they gave then.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from moeprobe.findings.weights import ExpertWeights
from moeprobe.records.carried import UnkeptError, mappings
from moeprobe.records.lockstep import Ended
from moeprobe.records.recorder import Recording
from moeprobe.records.trail import Trail


@dataclass(frozen=True, eq=False)
class Handover:
    """What one batch takes along from a layer.

    ``gave`` is what the layer returned, call by call. ``shared`` is what layers so far have written into mappings that
    they are all given, by the argument's name and the key.
    """

    gave: list[Any]
    shared: dict[str, dict[Any, Any]]


class Keeper(Protocol):
    """Keeps the progress of a streamed run, and knows that of an earlier one."""

    layers: int
    """How many layers an earlier run has finished."""
    experts: dict[str, ExpertWeights]
    """What the weights of their experts showed, by router path."""
    folder: Path
    """Where records may wait."""

    def begin(self, recording: Recording) -> None:
        """Put back what an earlier run has seen."""

    def handover(self, layer: int, batch: int) -> Handover:
        """What a batch took along from a layer that an earlier run has finished."""

    def keep(
        self, layer: int, carried: Sequence[Handover], needed: Collection[int], experts: dict[str, ExpertWeights]
    ) -> None:
        """A layer is finished, with what every batch takes along; of earlier layers, those in ``needed`` must stay.

        Raises:
            UnkeptError: that cannot be kept.

        """

    def give_up(self, why: str) -> None:
        """Keep no progress of this model."""


class LayerStops:
    """Hooks on the decoder layers.

    Args:
        model: the model.
        layers: paths of its decoder layers, in order.
        batches: how many batches there are.
        recording: of the model; it knows which batch a thread reads.
        wait: called before every layer that is to be run, with its number, its arguments and those by name.
        keeper: keeps the progress, if it is kept.

    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        batches: int,
        recording: Recording,
        wait: Callable[[int, tuple[Any, ...], dict[str, Any]], None],
        keeper: Keeper | None,
    ) -> None:
        self._modules = [model.get_submodule(path) for path in layers]
        self._recording, self._wait, self._keeper = recording, wait, keeper
        self._trails = [Trail() for _ in range(batches)]
        self.first = keeper.layers if keeper else 0
        """The first layer that is run."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within this block the hooks are on, and finished layers do not run."""
        with ExitStack() as undo:
            for index, module in enumerate(self._modules):
                before = module.register_forward_pre_hook(self._before(index), with_kwargs=True, prepend=True)
                undo.callback(before.remove)
                undo.callback(module.register_forward_hook(self._after(index)).remove)
                if index < self.first:
                    undo.enter_context(_replaced(module, self._instead(index)))
            yield

    @contextmanager
    def following(self) -> Iterator[None]:
        """To be put around every forward pass, in its thread."""
        if self._keeper is None:
            yield
            return
        with self._trails[self._recording.batch].outside():
            yield

    def finished(self, layer: int, experts: dict[str, ExpertWeights]) -> None:
        """All batches are through this layer, whose experts showed this."""
        if self._keeper is None:
            return
        needed = {one for trail in self._trails for one in trail.needed}
        carried = [Handover(trail.outputs.get(layer, []), trail.shared) for trail in self._trails]
        with self._own():
            try:
                self._keeper.keep(layer, carried, needed - {layer}, experts)
            except UnkeptError as error:
                self._give_up(str(error))
        for trail in self._trails:
            trail.drop(layer)

    def _before(self, index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._keeper is not None:
                with self._own():
                    self._follow(index, args, kwargs, self._keeper)
            if index >= self.first:
                self._wait(index, args, kwargs)

        return hook

    def _follow(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], keeper: Keeper) -> None:
        batch, arguments = self._recording.batch, {}
        try:
            arguments = mappings(args, kwargs)
        except UnkeptError as error:
            self._give_up(str(error))
        self._trails[batch].enter(arguments)
        if index == self.first > 0:
            for name, values in keeper.handover(index - 1, batch).shared.items():
                arguments[name].update(values)

    def _after(self, index: int) -> Callable[..., None]:
        last = index + 1 == len(self._modules)

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._keeper is not None:
                trail = self._trails[self._recording.batch]
                trail.leave(index, output)
                if index < self.first:
                    trail.drop(index)
            if last:
                raise Finished

        return hook

    def _instead(self, index: int) -> Callable[..., Any]:
        """What stands in for a finished layer."""
        calls = [0] * len(self._trails)

        def forward(*_: Any, **__: Any) -> Any:
            assert self._keeper is not None
            batch = self._recording.batch
            calls[batch] += 1
            with self._own():
                gave = self._keeper.handover(index, batch).gave
            return gave[min(calls[batch], len(gave)) - 1]

        return forward

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Errors within this block are ours, and not the model's."""
        try:
            yield
        except Exception as error:
            self._recording.own_error = error
            raise

    def _give_up(self, why: str) -> None:
        if self._keeper is not None:
            self._keeper.give_up(why)
            self._keeper = None


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


class Finished(Ended):
    """The pass has been through all layers; what would follow turns hidden states into tokens."""
