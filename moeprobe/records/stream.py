"""Probe a model that is larger than the memory: all batches go through a layer before the next one is read.

The model's own forward pass runs, once for each batch. All passes wait at the entry of every decoder layer until it
is in memory (``lockstep``), and, where a layer is too large for that, inside of it at the experts, which then come
one at a time (``single``).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.checkpoint.memory import keep_kernels, trim_heap
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.findings.weights import ExpertWeights
from moeprobe.probes.batches import Batch
from moeprobe.records.expert_pass import ExpertPass
from moeprobe.records.layer_stops import Finished, Keeper, LayerStops
from moeprobe.records.lockstep import Lockstep, Stop
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
_UNTIDY = 4
"""Batches after which the heap is tidied: after each it would take a sixth of the time."""


@dataclass
class Streamed:
    """What a streamed run has: the recording, and what the experts' weights showed while they were in memory.

    ``experts`` is by router path.
    """

    recording: Recording
    experts: dict[str, ExpertWeights] = field(default_factory=dict)


class StreamedProbe:
    """One streamed run.

    Args:
        stream: the model, of which no layer is in memory.
        batches: the probe's token batches.
        sink: gets every record and the number of its batch, layer by layer.
        fits: called with the bytes that the first batch holds before the first layer; it may refuse all others.
        done: called with every layer that is finished.
        keeper: keeps the progress, and takes up that of an earlier run; the sink must be part of it.

    """

    def __init__(
        self,
        stream: LayerStream,
        batches: Sequence[Batch],
        sink: Callable[[int, Record], None],
        fits: Callable[[int], None] = lambda _: None,
        done: Callable[[int], None] = lambda _: None,
        keeper: Keeper | None = None,
    ) -> None:
        self._stream, self._batches, self._sink = stream, batches, sink
        self._fits, self._done = fits, done
        self._layers = stream.layout.layers
        self._inside: int | None = None
        self._finished = set(range(keeper.layers if keeper else 0))
        self._modules = list(stream.experts)
        self._arithmetic = {path: arithmetic_of(stream.model.get_submodule(path)) for path in self._modules}
        self._passes: dict[str, ExpertPass] = {}
        self._paths = {module: path for path, module in stream.model.named_modules()}
        keep_kernels(len(batches))
        recording = probe_recording(stream.model, self._take)
        self._result = Streamed(recording, dict(keeper.experts) if keeper else {})
        self._stops = LayerStops(stream.model, self._layers, len(batches), recording, self._wait, keeper)
        if keeper is not None:
            keeper.begin(recording)
        calls = [partial(self._forward, number) for number in range(len(batches))]
        self._lockstep = Lockstep(calls)

    @property
    def recording(self) -> Recording:
        """What the routers showed."""
        return self._result.recording

    def run(self) -> Streamed:
        """Run all batches through all layers; a failing forward pass ends as in ``run_probe``.

        Layers that no batch reached are still read, for what their weights show.

        Raises:
            CheckpointError: a layer cannot be read, or the memory does not suffice.

        """
        recording = self._result.recording
        with torch.no_grad(), ExitStack() as undo:
            undo.enter_context(recording)
            undo.enter_context(self._stops.attached())
            undo.enter_context(
                installed([self._stream.model.get_submodule(one) for one in self._modules], self._dispatch)
            )
            try:
                if len(self._finished) < len(self._layers):
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
        recording.batch = number
        with torch.no_grad(), self._stops.following():
            try:
                forward(recording, number, self._batches[number], input_device(self._stream.model))
            except Finished:
                recording.end_pass()

    def _take(self, record: Record) -> None:
        self._sink(self._result.recording.batch, record)

    def _wait(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._result.recording.batch == 0 and index == self._stops.first:
            self._fits(_size((args, kwargs)))
        self._stop(Stop((index, _ENTRY, 0), self._layers[index]))

    def _stop(self, stop: Stop, payload: Any = None) -> None:
        self._tidy()
        self._lockstep.stop(stop, payload)

    def _tidy(self) -> None:
        # What batches have freed lies between what they keep, and the next ones would take new memory beside it.
        if self._result.recording.batch % _UNTIDY == _UNTIDY - 1:
            trim_heap()

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
        self._stop(Stop((*order, 0), path), work)
        self._tidy()
        return work.finish()

    def _serve(self, stop: Stop, waiting: list[Any]) -> None:
        """Bring what the batches that wait at ``stop`` need."""
        index, kind, *_ = stop.order
        if kind == _ENTRY:
            if self._inside != index:
                if self._inside is None:
                    self._stream.leave_embedding()
                self._leave()
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

    def _leave(self) -> None:
        """Read what the layer's weights say, free it, and say that it is done."""
        if self._inside is None:
            return
        index, self._inside = self._inside, None
        layer, experts = self._layers[index], self._result.experts
        own: dict[str, ExpertWeights] = {}
        for site in self._sites(layer):
            gate = self._gate(site)
            if site.experts is not None and (path := self._paths[site.experts]) in self._stream.experts:
                found = self._pass_at(path).finish(gate)
            else:
                found = None if gate is None else expert_weights(site, gate)
            if found is not None:
                own[site.path] = found
        experts |= own
        self._passes.clear()
        self._stream.leave(layer)
        self._finished.add(index)
        if self._result.recording.failure is None:
            self._stops.finished(index, own)
        self._done(index)

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
