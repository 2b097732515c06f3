"""SingleExperts: the experts of one layer, read from the disk one at a time.

Every expert is made by transformers' own converters, given the tensors of this expert alone: stacked experts come
out with one entry in their first dimension. All of them can be had as well, stacked in memory that is used again for
the next layer: a layer then takes its own size, and is copied no more often than it must be.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.arena import Arena, Reusing
from moeprobe.checkpoint.fp8 import even_ragged_fp8
from moeprobe.checkpoint.stored import Store
from moeprobe.errors import IncompleteError, StreamError

_EXPERT = re.compile(r"experts?\.(\d+)\.")


@dataclass(frozen=True)
class Part:
    """One stored tensor: its name, the tensor that it becomes a part of, and the pattern of its converter if any."""

    name: str
    target: str
    pattern: str | None


@dataclass(frozen=True)
class _Source:
    """One stored tensor, or one row of it, that an expert is made of."""

    part: Part
    row: int | None


class SingleExperts:
    """One experts module whose weights stay on the disk.

    Args:
        model: the model, on the meta device as far as these experts are concerned.
        path: of the experts module.
        count: number of experts.
        parts: what its tensors are made of.
        store: reads them.
        converters: transformers' converters by source pattern.
        load_config: transformers' settings for loading.
        arena: memory for one expert, shared by those of all layers.

    Raises:
        StreamError: the stored tensors cannot be told apart by expert.
        IncompleteError: an expert lacks tensors that others have.

    """

    def __init__(
        self,
        model: Any,
        path: str,
        count: int,
        parts: Sequence[Part],
        store: Store,
        converters: dict[str, Any],
        load_config: Any,
        arena: Arena,
    ) -> None:
        self.path, self.count = path, count
        self.names = [part.name for part in parts]
        """Of all their tensors in the files."""
        self.bytes = store.size(self.names)
        """Bytes of all experts in the files."""
        self._model, self._module = model, model.get_submodule(path)
        self._store, self._converters, self._config = store, converters, load_config
        self._arena = arena
        self._sources: list[dict[str, list[_Source]]] = [defaultdict(list) for _ in range(count)]
        for part in sorted(parts, key=lambda one: _natural(one.name)):
            shape = store.shape(part.name)
            found = _EXPERT.search(part.name)
            if found and part.pattern is not None and int(found[1]) < count:
                self._sources[int(found[1])][part.target].append(_Source(part, None))
            elif not found and shape and shape[0] == count:
                for expert in range(count):
                    self._sources[expert][part.target].append(_Source(part, expert))
            else:
                raise StreamError(f"{part.name} {list(shape)} cannot be split into {count} experts.")
        made_of = [{target: len(found) for target, found in sources.items()} for sources in self._sources]
        for expert, counts in enumerate(made_of):
            if counts != made_of[0]:
                raise IncompleteError(
                    f"Expert {expert} of {path} lacks tensors that others have, or has more; get the checkpoint again."
                )

    def expect(self, expert: int) -> None:
        """Tell the system that this expert will be read soon."""
        if expert < self.count:
            sources = [one for found in self._sources[expert].values() for one in found]
            self._store.expect(one.part.name for one in sources if one.row is None)

    def read(self, expert: int) -> dict[str, Tensor]:
        """Name -> tensor with 1 entry in its first dimension; valid until the next one is read."""
        made = self._read(expert, {})
        wanted = {name: getattr(self._module, name).dtype for name in made}
        return {name: tensor.to(device=self._device, dtype=wanted[name]) for name, tensor in made.items()}

    @cached_property
    def _device(self) -> torch.device:
        # Not the model's own answer, which is where its first parameter stands: that may be on the disk.
        return next((one.device for one in self._model.parameters() if not one.is_meta), torch.device("cpu"))

    def assemble(self, arena: Arena) -> None:
        """Bring all experts into the module, on the CPU; they are valid until ``arena`` is reset.

        Raises:
            IncompleteError: an expert is not as large as config.json says.

        """
        empty = {**self._module._parameters, **self._module._buffers}
        whole = {
            name: arena.take(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
            for name, tensor in empty.items()
            if tensor is not None
        }
        done: set[str] = set()
        for expert in range(self.count):
            places = {name: tensor[expert : expert + 1] for name, tensor in whole.items()}
            for name, tensor in self._read(expert, places).items():
                _put(places[name], tensor, f"{self.path}.{name}")
                done.add(name)
        for name in done:
            if name in self._module._buffers:
                self._module._buffers[name] = whole[name]
            else:
                self._module._parameters[name] = torch.nn.Parameter(whole[name], requires_grad=False)

    def _read(self, expert: int, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``read``, where possible to the places where the tensors will stand."""
        self._arena.reset()
        made: dict[str, Tensor] = {}
        with even_ragged_fp8(), Reusing(self._arena):
            for target, sources in self._sources[expert].items():
                with self._arena.at(places.get(target.rpartition(".")[2])):
                    made |= self._make(target, sources)
        return made

    def _make(self, target: str, sources: list[_Source]) -> dict[str, Tensor]:
        pattern = sources[0].part.pattern
        if pattern is None:
            return {target.rpartition(".")[2]: self._get(sources[0])}
        converter = deepcopy(self._converters[pattern])
        for source in sources:
            read = partial(self._get, source)
            converter.add_tensor(target, source.part.name, source.part.pattern, read)
        with self._one_entry():
            made = converter.convert(
                target, model=self._model, config=self._model.config, hf_quantizer=self._config.hf_quantizer
            )
        return {name.rpartition(".")[2]: value[0] if isinstance(value, list) else value for name, value in made.items()}

    @contextmanager
    def _one_entry(self) -> Iterator[None]:
        """The module as if it had one expert: some converters look at the shape that they have to come to."""
        parameters = dict(self._module._parameters)
        try:
            for name, tensor in parameters.items():
                if tensor is not None:
                    self._module._parameters[name] = torch.nn.Parameter(tensor[:1], requires_grad=False)
            yield
        finally:
            self._module._parameters.update(parameters)

    def _get(self, source: _Source) -> Tensor:
        stored = self._store[source.part.name]
        if source.row is None:
            return stored.whole(self._arena.take(stored.nbytes))
        return stored.rows(source.row, 1, self._arena.take(stored.nbytes // self.count))


def _put(place: Tensor, tensor: Tensor, name: str) -> None:
    """Copy into its place what does not stand there already."""
    if tensor.shape != place.shape:
        raise IncompleteError(
            f"An expert of {name} is {list(tensor.shape[1:])} in the files and {list(place.shape[1:])} by config.json; "
            f"the two belong to different models."
        )
    there = tensor.data_ptr() == place.data_ptr() and tensor.is_contiguous() and tensor.dtype == place.dtype
    if not there:
        shared = tensor.untyped_storage().data_ptr() == place.untyped_storage().data_ptr()
        place.copy_(tensor.clone() if shared else tensor)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts ``experts.10`` behind ``experts.9``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
