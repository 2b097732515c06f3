"""LayerStream: a model whose decoder layers are on the disk, and in memory one at a time.

transformers loads it: an ordinary ``from_pretrained``, in which the one function that converts and places tensors is
given only what stands outside of the decoder layers. The same function is called again for each layer, with that
layer's tensors alone. So fused experts, quantised formats, dtypes, tied weights and buffers are transformers' own.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moeprobe.checkpoint.arena import Arena
from moeprobe.checkpoint.auto import choose_class
from moeprobe.checkpoint.failures import loading
from moeprobe.checkpoint.fp8 import even_ragged_fp8
from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.leftover import refuse_codes
from moeprobe.checkpoint.load import Loaded, load_options
from moeprobe.checkpoint.memory import trim_heap
from moeprobe.checkpoint.missing import check_missing, check_shapes
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.outside import embedding_path, output_head, refuse_shared
from moeprobe.checkpoint.renaming import Renaming
from moeprobe.checkpoint.single import Part, SingleExperts
from moeprobe.checkpoint.skeleton import skeletons
from moeprobe.checkpoint.stored import Store
from moeprobe.errors import IncompleteError, StreamError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SYNCHRONOUS = "HF_DEACTIVATE_ASYNC_LOAD"
"""With it, transformers reads tensors when it converts them, not all of a layer beforehand."""


@dataclass(frozen=True)
class Layout:
    """Where a model can be cut.

    ``layers`` are the paths of the decoder layers in the order of the model's modules. ``kept`` are paths of modules
    inside of them whose own tensors stay in memory once they were there (the routers: they are small). ``experts``
    maps the path of every experts module that can be read one expert at a time to its number of experts.
    """

    layers: list[str]
    kept: frozenset[str] = frozenset()
    experts: Mapping[str, int] | None = None


@dataclass(frozen=True, eq=False)
class _Slot:
    """One tensor of a layer: where it is put, and what stands there while the layer is on the disk."""

    holder: dict[str, Any]
    name: str
    path: str
    empty: Tensor
    kept: bool


class LayerStream:
    """The layers of a model, one at a time.

    Args:
        checkpoint: the files.
        layout: where the model can be cut; by its loaded skeleton, in which quantised modules stand already.
        by_expert: leave the routed experts on the disk when a layer is entered; they come one by one (``experts``).

    """

    def __init__(self, checkpoint: Checkpoint, layout: Callable[[nn.Module], Layout], by_expert: bool) -> None:
        self.checkpoint = checkpoint
        self.by_expert = by_expert
        self.store = Store(read_headers(checkpoint.shards))
        self.layout = Layout([])
        self.experts: dict[str, SingleExperts] = {}
        """By path: the experts modules whose experts are read one by one."""
        self._assembled: dict[str, SingleExperts] = {}
        """By path: those whose experts are put together one by one when their layer is entered."""
        self._arena = Arena()
        self._layout_of = layout
        self._names: dict[str, list[str]] = defaultdict(list)
        self._slots: dict[str, list[_Slot]] = {}
        self._misshapen: set[tuple[str, Any, Any]] = set()
        self._config: Any = None
        self._trusted = False
        self._model: PreTrainedModel | None = None

    @property
    def model(self) -> "PreTrainedModel":
        """The model; whatever is not in memory stands on the meta device."""
        assert self._model is not None
        return self._model

    def open(self, dtype: str, device: str | None, trust_remote_code: bool) -> Loaded:
        """Load what stands outside of the layers; the arguments and errors are those of ``load_model``."""
        import transformers.modeling_utils as code

        options = load_options(dtype, device, None)
        with loading(self.checkpoint), even_ragged_fp8(), _in_order():
            chosen = choose_class(self.checkpoint, trust_remote_code)
            whole = code.convert_and_load_state_dict_in_model
            code.convert_and_load_state_dict_in_model = self._outside
            try:
                self._model, info = chosen.auto_class.from_pretrained(
                    str(self.checkpoint.folder),
                    config=chosen.config,
                    trust_remote_code=chosen.code,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **options,
                )
            finally:
                code.convert_and_load_state_dict_in_model = whole
        self._trusted = trust_remote_code
        self._check_shapes({*info["mismatched_keys"], *self._misshapen})
        missing = check_missing(self.checkpoint, self.model, info["missing_keys"], info["unexpected_keys"])
        self.model.eval().requires_grad_(False)
        return Loaded(self.model, missing, chosen.left_out)

    def enter(self, layer: str) -> None:
        """Bring a layer into memory (without the experts that come one by one).

        Raises:
            CheckpointError: it cannot be read or converted.

        """
        self._arena.reset()
        self._place(layer)

    def _place(self, part: str) -> None:
        with loading(self.checkpoint), even_ragged_fp8(), _in_order():
            info, _ = _convert()(self.model, {name: self.store[name] for name in self._names[part]}, self._config)
            for experts in self._assembled_in(part):
                experts.assemble(self._arena)
        self._check_shapes(info.mismatched_keys)
        empty = [slot.path for slot in self._slots[part] if slot.holder[slot.name].is_meta and not self._single(slot)]
        if info.conversion_errors or empty:
            first = next(iter(info.conversion_errors), empty[0] if empty else "")
            raise IncompleteError(
                f"The files of {self.checkpoint.source} do not hold everything that {first} is made of; "
                f"tensors are missing or have another shape."
            )

    def _check_shapes(self, mismatched: Collection[Any]) -> None:
        check_shapes(self.checkpoint, mismatched, skeletons(self.checkpoint, self._trusted))

    def leave(self, layer: str) -> None:
        """Free a layer, all but its routers."""
        for slot in self._slots[layer]:
            if not slot.kept:
                slot.holder[slot.name] = slot.empty
        trim_heap()

    def leave_embedding(self) -> None:
        """Free the embedding, once all batches are behind it; a model that uses it again gets it from the files."""
        for path in [path for path in self._slots if path not in self.layout.layers]:
            self.leave(path)
            self.model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: self._bring_back(path))

    def _bring_back(self, path: str) -> None:
        if any(slot.holder[slot.name].is_meta for slot in self._slots[path]):
            self._place(path)

    def expect(self, layer: str) -> None:
        """Tell the system that this layer will be read soon."""
        assembled = [name for experts in self._assembled_in(layer) for name in experts.names]
        self.store.expect([*self._names[layer], *assembled])

    def bytes_of(self, layers: Collection[str]) -> int:
        """Bytes of these layers in the files, experts included."""
        names = [name for layer in layers for name in self._names[layer]]
        apart = {**self.experts, **self._assembled}
        single = sum(experts.bytes for path, experts in apart.items() if self._layer(path) in layers)
        return self.store.size(names) + single

    def _assembled_in(self, layer: str) -> list[SingleExperts]:
        return [experts for path, experts in self._assembled.items() if path.startswith(f"{layer}.")]

    def _single(self, slot: _Slot) -> bool:
        return slot.path.rpartition(".")[0] in self.experts

    def _outside(self, model: Any, state_dict: Any, load_config: Any, disk_offload_index: Any = None) -> Any:
        """What stands in for transformers' function while the skeleton is loaded."""
        refuse_codes(self.checkpoint, model, state_dict, load_config)
        self._config = load_config
        self.layout = self._layout_of(model)
        empty = model.state_dict()
        inside = {name: layer for name in empty if (layer := self._layer(name)) is not None}
        refuse_shared(model, inside)
        unread = output_head(model, set(inside))
        rename = Renaming(model, load_config.weight_mapping or [], empty)
        embedding = embedding_path(model, set(inside))
        outside: dict[str, Any] = {}
        given: set[str] = set()
        parts: dict[str, list[Part]] = defaultdict(list)
        single = dict(self.layout.experts or {}) if self.by_expert or _on_cpu(load_config) else {}
        for name in state_dict:
            target, pattern, targets = rename(name)
            owner = target.rpartition(".")[0]
            if target in unread:
                continue
            if target not in inside:
                outside[name] = self.store[name]
                if owner == embedding:
                    self._names[owner].append(name)
                continue
            given.update(targets)
            if pattern is None and load_config.hf_quantizer is None:
                shape = torch.Size(self.store.shape(name))
                if shape != empty[target].shape:
                    self._misshapen.add((target, shape, empty[target].shape))
            if owner in single:
                parts[owner].append(Part(name, target, pattern))
            else:
                self._names[inside[target]].append(name)
        rules, arena = rename.converters, Arena()
        for path, count in single.items():
            made_of = parts[path]
            try:
                experts = SingleExperts(model, path, count, made_of, self.store, rules, load_config, arena)
            except StreamError:
                if self.by_expert:
                    raise
                for part in made_of:
                    self._names[inside[part.target]].append(part.name)
            else:
                (self.experts if self.by_expert else self._assembled)[path] = experts
        # Before anything is placed: these are the tensors that stand for a layer on the disk.
        lost = set(inside) - given
        self._slots = {layer: list(self._empty_slots(model, layer, lost)) for layer in self.layout.layers}
        if embedding is not None and self._names[embedding]:
            self._slots[embedding] = list(self._empty_slots(model, embedding, lost))
        info, index = _convert()(model, outside, load_config, disk_offload_index)
        info.missing_keys -= (set(inside) - lost) | unread
        return info, index

    def _layer(self, name: str) -> str | None:
        parts = name.split(".")
        paths = (".".join(parts[:count]) for count in range(1, len(parts)))
        return next((path for path in paths if path in self.layout.layers), None)

    def _empty_slots(self, model: nn.Module, layer: str, lost: set[str]) -> Iterator[_Slot]:
        for below, module in model.get_submodule(layer).named_modules():
            path = f"{layer}.{below}" if below else layer
            lasting = path in self.layout.kept
            for holder in (module._parameters, module._buffers):
                for name, tensor in holder.items():
                    full = f"{path}.{name}"
                    # What no file holds is computed once, when the model is made, and stays.
                    if tensor is not None and name not in module._non_persistent_buffers_set and full not in lost:
                        yield _Slot(holder, name, full, tensor, lasting)


def _on_cpu(load_config: Any) -> bool:
    devices = (load_config.device_map or {"": "cpu"}).values()
    return all(str(device) == "cpu" for device in devices)


def _convert() -> Any:
    from transformers.core_model_loading import convert_and_load_state_dict_in_model

    return convert_and_load_state_dict_in_model


@contextmanager
def _in_order() -> Iterator[None]:
    before = os.environ.get(_SYNCHRONOUS)
    os.environ[_SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SYNCHRONOUS]
        else:
            os.environ[_SYNCHRONOUS] = before
