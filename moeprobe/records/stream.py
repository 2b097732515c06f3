"""Probe a model that is larger than the memory: all batches go through a layer before the next one is read.

The model's own forward pass runs, once for each batch. All passes wait at the entry of every decoder layer until it
is in memory (``lockstep``), and, where a layer is too large for that, inside of it at the experts, which then come
one at a time (``single``).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batch
from moeprobe.records.lockstep import Ended, Lockstep, Stop
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.records.run import MODEL_ERRORS, failure, forward, input_device
from moeprobe.records.single import Work, alone, install
from moeprobe.routers.experts import stacked_names
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.layout import layer_of_path
from moeprobe.routers.still import read_still
from moeprobe.routers.tensors import own_tensors
from moeprobe.routers.weights import ExpertFacts, expert_weights

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
        fits: called with the first batch before the first layer; it may refuse the rest.
        done: called with the layer that is finished, and how many there are.

    """

    def __init__(
        self,
        stream: LayerStream,
        batches: Sequence[Batch],
        sink: Callable[[int, Record], None],
        fits: Callable[[Batch, Entry], None] = lambda *_: None,
        done: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._stream, self._batches, self._sink = stream, batches, sink
        self._fits, self._done = fits, done
        self._layers = stream.layout.layers
        self._inside: int | None = None
        self._finished: set[int] = set()
        self._arithmetic = str(getattr(stream.model.config, "_experts_implementation", None))
        self._paths = {module: path for path, module in stream.model.named_modules()}
        recording = Recording(stream.model, self._take, keep_inputs=True)
        self._result = Streamed(recording)
        self._facts: dict[str, ExpertWeights] = {}
        self._batch_of = _Batch()
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
            if self._stream.by_expert:
                undo.callback(install(self._dispatch, self._stream.model))
            try:
                self._lockstep.run(self._serve)
            except MODEL_ERRORS as error:
                recording.failure = failure(recording, error)
            self._leave()
            for index in range(len(self._layers)):
                if index not in self._finished:
                    self._enter(index)
                    self._unreached(index)
                    self._leave()
        return self._result

    def _forward(self, number: int) -> None:
        """One batch, in its thread, to the end of the last layer with a router."""
        self._batch_of.number = number
        recording = self._result.recording
        with torch.no_grad():
            try:
                forward(recording, self._batches[number], input_device(self._stream.model))
            except _Finished:
                recording.end_pass()

    def _take(self, record: Record) -> None:
        self._sink(self._batch_of.number, record)

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
            self._lockstep.stop(Stop((index, _ENTRY), path), Entry(args, kwargs))

        return hook

    def _dispatch(self, module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Stands in for transformers' implementation of the experts."""
        path = self._paths[module]
        work = Work(module, self._arithmetic, hidden, chosen, weights)
        self._lockstep.stop(Stop((self._layers.index(layer_of_path(self._stream.layout, path)), _EXPERTS), path), work)
        return work.finish()

    def _serve(self, stop: Stop, waiting: list[Any]) -> None:
        """Bring what the batches that wait at ``stop`` need."""
        index, kind = stop.order
        if kind == _EXPERTS:
            self._pass_experts(stop.name, waiting)
            return
        if self._inside is None and not self._finished:
            for batch, entry in zip(self._batches, waiting, strict=False):
                self._fits(batch, entry)
        if self._inside != index:
            self._leave()
            self._enter(index)

    def _enter(self, index: int) -> None:
        self._stream.enter(self._layers[index])
        self._inside = index
        if index + 1 < len(self._layers):
            self._stream.expect(self._layers[index + 1])

    def _leave(self) -> None:
        """Read what the layer's weights say, and free it. Whoever saves the state of a run does it here."""
        if self._inside is None:
            return
        index, self._inside = self._inside, None
        layer = self._layers[index]
        for site in self._sites(layer):
            if site.experts is not None and (path := self._paths[site.experts]) in self._stream.experts:
                if path in self._facts:
                    self._result.experts[site.path] = self._facts[path]
            elif (gate := self._gate(site)) is not None:
                self._result.experts[site.path] = expert_weights(site, gate)
        self._stream.leave(layer)
        self._finished.add(index)
        self._done(index, len(self._layers))

    def _sites(self, layer: str) -> list[Site]:
        return [site for site in self._result.recording.sites if site.path.startswith(f"{layer}.")]

    def _gate(self, site: Site) -> Gate | None:
        recorded = {gate.router.path: gate for gate in self._result.recording.gates}
        if site.path in recorded:
            return recorded[site.path]
        with suppress(ValueError):
            return read_still(site, self._stream.model.config, "")
        return None

    def _unreached(self, index: int) -> None:
        """Look at the experts that no batch asked for."""
        for site in self._sites(self._layers[index]):
            if site.experts is not None and (path := self._paths[site.experts]) in self._stream.experts:
                self._pass_experts(path, [])

    def _pass_experts(self, path: str, works: Sequence[Work]) -> None:
        """All experts of a module, one at a time, for all batches."""
        experts, module = self._stream.experts[path], self._stream.model.get_submodule(path)
        site = next(one for one in self._result.recording.sites if one.experts is module)
        facts, reason = None, ""
        try:
            names = stacked_names(site, experts.count)
            facts = ExpertFacts(experts.count, _matrix(site, experts.count), lasting=False)
        except ValueError as error:
            reason = str(error)
        for expert in range(experts.count):
            experts.expect(expert + 1)
            tensors = experts.read(expert)
            if facts is not None:
                facts.add(expert, {name: tensors[name][0] for name in names})
            one = alone(module, self._arithmetic, tensors)
            for work in works:
                work.add(expert, one)
        self._facts[path] = ExpertWeights(reason=reason) if facts is None else facts.value(partial(_equal, experts))


class _Finished(Ended):
    """The pass has been through all layers; what would follow turns hidden states into tokens."""


def _finishes(_module: nn.Module, _args: Any, _output: Any) -> None:
    raise _Finished


class _Batch(threading.local):
    """Which batch runs in this thread."""

    number = 0


def _equal(experts: Any, first: int, second: int) -> bool:
    """Whether two experts are equal bit for bit; they are read once more."""
    kept = {name: tensor.clone() for name, tensor in experts.read(first).items()}
    return all(torch.equal(kept[name], tensor) for name, tensor in experts.read(second).items())


def _matrix(site: Site, count: int) -> Tensor | None:
    """The gate's matrix, before the router has run."""
    tensors = (tensor for _, tensor in own_tensors(site.router) if tensor.is_floating_point() and tensor.ndim == 2)
    return next((tensor for tensor in tensors if tensor.shape[0] >= count), None)
