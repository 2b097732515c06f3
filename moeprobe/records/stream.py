"""Probe a model that is larger than the memory: all batches go through a layer before the next one is read.

The model's own forward pass runs, once for each batch. All passes wait at the entry of every decoder layer until it
is in memory (``lockstep``), and, where a layer is too large for that, inside of it at the experts, which then come
one at a time (``single``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.checkpoint.memory import keep_kernels
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batch
from moeprobe.records.expert_pass import ExpertPass
from moeprobe.records.lockstep import Ended, Lockstep, Stop
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.records.run import MODEL_ERRORS, failure, forward, input_device, probe_recording
from moeprobe.records.single import EAGER, GROUPED, Work, arithmetic_of, installed, run_eager, run_expert
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.layout import layer_of_path
from moeprobe.routers.still import read_still
from moeprobe.routers.weights import expert_weights

_EXPERTS, _ENTRY = 0, 1
"""Within a layer, experts come before the entry of the same layer is passed again."""


@dataclass
class Streamed:
    """What a streamed run has: the recording, and what the experts' weights showed while they were in memory.

    ``experts`` is by router path.
    """

    recording: Recording
    experts: dict[str, ExpertWeights] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A batch that waits before a layer, with what the layer will be called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class StreamedProbe:
    """One streamed run.

    Args:
        stream: the model, of which no layer is in memory.
        batches: the probe's token batches.
        sink: gets every record and the number of its batch, layer by layer.
        fits: called with the bytes that the first batch holds before the first layer; it may refuse all others.
        done: called with the layer that is finished, and what the batches carry into the next one, in their order
            (nothing after the last): with the state of the sink, all that a run is at this point.

    """

    def __init__(
        self,
        stream: LayerStream,
        batches: Sequence[Batch],
        sink: Callable[[int, Record], None],
        fits: Callable[[int], None] = lambda _: None,
        done: Callable[[int, Sequence[Entry]], None] = lambda *_: None,
    ) -> None:
        self._stream, self._batches, self._sink = stream, batches, sink
        self._fits, self._done = fits, done
        self._layers = stream.layout.layers
        self._inside: int | None = None
        self._finished: set[int] = set()
        self._modules = list(stream.experts)
        self._arithmetic = {path: arithmetic_of(stream.model.get_submodule(path)) for path in self._modules}
        self._passes: dict[str, ExpertPass] = {}
        self._paths = {module: path for path, module in stream.model.named_modules()}
        keep_kernels(len(batches))
        recording = probe_recording(stream.model, self._take)
        self._result = Streamed(recording)
        calls = [partial(self._forward, number) for number in range(len(batches))]
        self._lockstep = Lockstep(calls)

    def run(self) -> Streamed:
        """Run all batches through all layers; a failing forward pass ends as in ``run_probe``.

        Layers that no batch reached are still read, for what their weights show.

        Raises:
            CheckpointError: a layer cannot be read, or the memory does not suffice.

        """
        recording = self._result.recording
        with torch.no_grad(), ExitStack() as undo:
            undo.enter_context(recording)
            undo.enter_context(self._gates())
            undo.enter_context(
                installed([self._stream.model.get_submodule(one) for one in self._modules], self._dispatch)
            )
            try:
                self._lockstep.run(self._serve)
            except MODEL_ERRORS as error:
                recording.failure = failure(recording, error)
            self._leave()
            for index in range(len(self._layers)):
                if index not in self._finished:
                    self._enter(index)
                    self._leave()
        return self._result

    def _forward(self, number: int) -> None:
        """One batch, in its thread, to the end of the last layer with a router."""
        recording = self._result.recording
        with torch.no_grad():
            try:
                forward(recording, number, self._batches[number], input_device(self._stream.model))
            except _Finished:
                recording.end_pass()

    def _take(self, record: Record) -> None:
        self._sink(self._result.recording.batch, record)

    @contextmanager
    def _gates(self) -> Iterator[None]:
        """Hooks that make every pass wait at the layers, and end behind the last one."""
        model, handles = self._stream.model, []
        try:
            for index, path in enumerate(self._layers):
                layer = model.get_submodule(path)
                handles.append(
                    layer.register_forward_pre_hook(self._waits(index, path), with_kwargs=True, prepend=True)
                )
            handles.append(model.get_submodule(self._layers[-1]).register_forward_hook(_finishes))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _waits(self, index: int, path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if index == self._result.recording.batch == 0:
                self._fits(_size((args, kwargs)))
            self._lockstep.stop(Stop((index, _ENTRY, 0), path), Entry(args, kwargs))

        return hook

    def _dispatch(self, module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Stands in for transformers' implementation of the experts."""
        path = self._paths[module]
        order = (self._layers.index(layer_of_path(self._stream.layout, path)), _EXPERTS, self._modules.index(path))

        def bring(expert: int) -> dict[str, Tensor]:
            if self._pass_at(path).position != expert:
                self._lockstep.stop(Stop((*order, expert), path))
            return self._pass_at(path).bring(expert)

        if self._arithmetic[path] == EAGER:
            return run_eager(module, bring, hidden, chosen, weights)
        work = Work(module, hidden, chosen, weights)
        self._lockstep.stop(Stop((*order, 0), path), work)
        return work.finish()

    def _serve(self, stop: Stop, waiting: list[Any]) -> None:
        """Bring what the batches that wait at ``stop`` need."""
        index, kind, *_ = stop.order
        if kind == _ENTRY:
            if self._inside != index:
                self._leave(waiting)
                self._enter(index)
        elif self._arithmetic[stop.name] == GROUPED:
            experts = self._pass_at(stop.name)
            for expert in range(self._stream.experts[stop.name].count):
                run_expert(waiting, expert, experts.bring(expert))

    def _pass_at(self, path: str) -> ExpertPass:
        """The pass over these experts that is under way."""
        if path not in self._passes:
            module = self._stream.model.get_submodule(path)
            site = next(one for one in self._result.recording.sites if one.experts is module)
            self._passes[path] = ExpertPass(self._stream.experts[path], site)
        return self._passes[path]

    def _enter(self, index: int) -> None:
        self._stream.enter(self._layers[index])
        self._inside = index
        if index + 1 < len(self._layers):
            self._stream.expect(self._layers[index + 1])

    def _leave(self, waiting: Sequence[Entry] = ()) -> None:
        """Read what the layer's weights say, free it, and say that it is done."""
        if self._inside is None:
            return
        index, self._inside = self._inside, None
        layer = self._layers[index]
        for site in self._sites(layer):
            gate = self._gate(site)
            if site.experts is not None and (path := self._paths[site.experts]) in self._stream.experts:
                found = self._pass_at(path).finish(gate)
            else:
                found = None if gate is None else expert_weights(site, gate)
            if found is not None:
                self._result.experts[site.path] = found
        self._passes.clear()
        self._stream.leave(layer)
        self._finished.add(index)
        self._done(index, waiting)

    def _sites(self, layer: str) -> list[Site]:
        return [site for site in self._result.recording.sites if site.path.startswith(f"{layer}.")]

    def _gate(self, site: Site) -> Gate | None:
        recorded = {gate.router.path: gate for gate in self._result.recording.gates}
        if site.path in recorded:
            return recorded[site.path]
        with suppress(ValueError):
            return read_still(site, self._stream.model.config, "")
        return None


def _size(values: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(values, Tensor):
        return values.nbytes
    if isinstance(values, dict):
        values = tuple(values.values())
    return sum(map(_size, values)) if isinstance(values, tuple | list) else 0


class _Finished(Ended):
    """The pass has been through all layers; what would follow turns hidden states into tokens."""


def _finishes(_module: nn.Module, _args: Any, _output: Any) -> None:
    raise _Finished
