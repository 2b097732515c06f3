"""Scopes: which token ids and which mask the rows of a router belong to, while a model runs.

A model holds models: a language model behind a vision tower, an encoder beside a decoder. Each is called with ids
and a mask of its own, or with embeddings of the ids of the one around it. The innermost that says something is
right for the routers inside it.
"""

import inspect
import re
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.routers.wrapped import by_path, entrances, inner

_TYPES = re.compile(r"token_type_ids$")
_ID_NAMES = {"input_ids", "decoder_input_ids"}
_SENSES = re.compile(r"pixel|image|grid|audio|feature|patch")
_VISION = re.compile(r"vision|visual|image")


@dataclass(frozen=True, eq=False)
class Frame:
    """Inputs of one model while it runs: ids and mask [batch, length], token types by name.

    ``first`` says whether the ids are those of the outermost model (a decoder has others). ``virtual`` learned tokens
    without ids stand before those of every row (prompt tuning), ``cached`` ones are in the cache (generating).
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    types: tuple[Tensor, ...] = ()
    first: bool = True
    virtual: int = 0
    cached: int = 0

    def rows_of(self, total: int, path: str) -> Tensor | None:
        """[batch x length] bool, the rows that a router with ``total`` rows saw; None where it saw all of them.

        Raises:
            ValueError: the inputs do not explain that number of rows.
        """
        shaped = self.ids if self.ids is not None else self.mask
        if shaped is None or total == shaped.numel() or (total % shaped.shape[0] == 0 and not self.types):
            return None
        candidates = [
            (int(value), (types == value).flatten())
            for types in self.types
            if types.shape == shaped.shape
            for value in sorted(set(types.flatten().tolist()))
        ]
        fitting = [entry for entry in candidates if int(entry[1].sum()) == total]
        if len(fitting) > 1:
            fitting = [entry for entry in fitting if (entry[0] != 0) == bool(_VISION.search(path))]
        if not fitting:
            raise ValueError(f"{total} rows do not belong to the {shaped.numel()} tokens of the batch")
        chosen: Tensor = fitting[0][1]
        return chosen


class _Running(threading.local):
    """The models that run now, outermost first: of every thread its own."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []


class Scopes:
    """Follows the calls of the models that hold routers."""

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        self._running = _Running()
        self._last = Frame()
        holders = {".".join(path.split(".")[:count]) for path in paths for count in range(path.count(".") + 1)}
        first = entrances(model)
        self._prompted = len(first) > 1
        places = [("", module) for module in first]
        places += [(path, module) for path, module in by_path(model).items() if path in holders and path]
        signatures = [(path, module, _signature(module)) for path, module in places]
        self._watched = [
            (module, signature)
            for path, module, signature in signatures
            if not path or not _ID_NAMES.isdisjoint(signature.parameters) or _sees(signature)
        ]

    @property
    def now(self) -> Frame:
        """The frame of the innermost model that runs."""
        return self._running.frames[-1] if self._running.frames else self._last

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks."""
        handles = []
        for module, signature in self._watched:
            handles.append(module.register_forward_pre_hook(self._begins(signature), with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(self._ends, always_call=True))
        return handles

    def _begins(self, signature: inspect.Signature) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _sees(signature):
                # The rows of a tower are patches or frames, and no tokens.
                self._running.frames.append(Frame(first=False))
                return
            given = _bound(signature, args, kwargs)
            if "input_ids" not in signature.parameters and "decoder_input_ids" in signature.parameters:
                given["input_ids"] = given.get("decoder_input_ids")
                given["attention_mask"] = given.get("decoder_attention_mask")
            self._running.frames.append(self._frame(given))

        return hook

    def _ends(self, *_: Any) -> None:
        if self._running.frames:
            self._last = self._running.frames.pop()

    def _frame(self, given: dict[str, Any]) -> Frame:
        outer = self._running.frames[-1] if self._running.frames else None
        ids, mask = _integers(given.get("input_ids")), given.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        types = tuple(
            value
            for name, value in given.items()
            if _TYPES.search(name) and isinstance(value, Tensor) and value.ndim == 2
        )
        if outer is None:
            return Frame(ids, mask, types, cached=_cached(given.get("past_key_values")))
        if ids is not None and not _same(ids, outer.ids):
            return Frame(ids, mask, types, first=False)
        virtual = _virtual(given.get("inputs_embeds"), mask, outer) if self._prompted else 0
        if virtual:
            return replace(outer, virtual=virtual)
        return replace(outer, mask=outer.mask if mask is None else mask, types=types or outer.types)


def _signature(module: nn.Module) -> inspect.Signature:
    """The arguments of a module; a wrapper that hands on whatever it is given has those of what it wraps."""
    own = inspect.signature(module.forward)
    core = inner(module)
    named = any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own.parameters.values())
    return own if named or core is module else inspect.signature(core.forward)


def _cached(cache: Any) -> int:
    """Tokens that the cache holds before the pass, 0 where that cannot be told."""
    try:
        return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        return 0


def _virtual(embedded: Any, mask: Tensor | None, outer: Frame) -> int:
    """Tokens that the model around this one has put before its own ids; 0 where it has done nothing of that kind."""
    if outer.virtual:
        return outer.virtual
    if outer.ids is None or (outer.mask is not None and outer.mask.shape != outer.ids.shape):
        return 0
    batch, length = outer.ids.shape
    wide = embedded if isinstance(embedded, Tensor) and embedded.ndim == 3 else mask
    return max(0, wide.shape[1] - length) if wide is not None and wide.shape[0] == batch else 0


def _sees(signature: inspect.Signature) -> bool:
    """Whether a module is a tower for images or sound: it takes these, and no ids."""
    names = signature.parameters
    return _ID_NAMES.isdisjoint(names) and any(_SENSES.search(name) for name in names)


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name; a call that the signature refuses will fail by itself."""
    try:
        found = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:
        return kwargs
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    return found


def _integers(value: Any) -> Tensor | None:
    if not isinstance(value, Tensor) or value.is_floating_point():
        return None
    return value if value.ndim == 2 else value.reshape(1, -1) if value.ndim == 1 else None


def _same(first: Tensor, second: Tensor | None) -> bool:
    if second is None or first.shape != second.shape:
        return False
    return first is second or bool(torch.equal(first, second.to(first.device)))
