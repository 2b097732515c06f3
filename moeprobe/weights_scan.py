"""The story of ``--weights-only``: open -> names -> find the routers -> read their tensors -> what they say.

Nothing is loaded and nothing runs; of a checkpoint of 700 GB some 230 MB are read.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.config_sizes import refuse_other_sizes
from moeprobe.checkpoint.config_values import refuse_bad_values
from moeprobe.checkpoint.expert_names import fold_experts
from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.checkpoint.names import ModuleTensor
from moeprobe.checkpoint.open import has_native_class
from moeprobe.checkpoint.open_stored import StoredCheckpoint, open_stored
from moeprobe.checkpoint.quantised.naming import belongs_to_codes
from moeprobe.checkpoint.raw_config import read_config
from moeprobe.checkpoint.stored_tensors import read_all_headers, read_tensors
from moeprobe.checkpoint.token_ids import stored_ids
from moeprobe.checkpoint.weights import refuse_broken_promises
from moeprobe.errors import OptionError
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import NEEDS_FORWARD, Model, Unchecked
from moeprobe.findings.unread import Unread
from moeprobe.findings.weights import ExpertWeights
from moeprobe.progress import Progress
from moeprobe.routers.stored_gate import read_said, read_stored
from moeprobe.routers.stored_sites import StoredSite
from moeprobe.routers.table import TokenIds
from moeprobe.routers.weights import gate_weights
from moeprobe.weights_only.inventory import take_inventory

if TYPE_CHECKING:
    from torch import Tensor

    from moeprobe.routers.gate import Gate

_AT_ONCE = 1 << 25
"""Bytes below which reading ahead of the judging costs more than it saves."""
_UNTOLD = "its tensors are stored in a layout that only the loaded model shows; leave out --weights-only"
WHY = "only the weights of the routers were read (weights only)"


@dataclass(frozen=True, eq=False)
class Scan:
    """What the files say about the routers; ``bytes_read`` and ``requests`` do not count config and index."""

    model: Model
    routers: list[RouterEvidence]
    not_checked: list[Unchecked]
    unread: list[Unread]
    bytes_read: int
    requests: int


def refuse_what_runs(model: object, given: Mapping[str, object]) -> None:
    """Do nothing if everything that was asked for can be had without running the model.

    Args:
        model: folder or hub id.
        given: option -> its value, for all options that need a run; None where it was not given.

    Raises:
        OptionError: something needs a run.

    """
    if not isinstance(model, str | Path):
        raise OptionError(
            "weights_only reads the files of a checkpoint; give its folder or hub id, not a loaded model."
        )
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise OptionError(
            f"--weights-only loads and runs nothing, so {unused[0]} has no meaning; leave out one of the two."
        )


def scan(
    model: str | Path,
    *,
    revision: str | None = None,
    bars: Progress | None = None,
    suits: Callable[[str], None] = lambda _: None,
) -> Scan:
    """Read the routers of a checkpoint without loading it.

    Args:
        model: a folder or a hub id.
        revision: branch, tag or commit of a hub checkpoint.
        bars: progress.
        suits: raises for a model type that cannot be used as asked.

    Raises:
        NotMoEError: no tensor is named like a router's.
        IncompleteError: the files do not hold what the config and the model class require of the routing.
        CheckpointError: it cannot be read; the message says what to do.

    """
    with _uncollected():
        stored = open_stored(str(model), revision, suits)
        headers = _headers(stored, list(stored.shards)) if stored.files.at_hand or stored.index is None else {}
        few, experts = fold_experts(list(headers) or [name for shard in stored.shards.values() for name in shard])
        known = has_native_class(stored.model_type)
        telling = [*few, *(group.last for group in experts.values())]
        shapes = {name: headers[name].shape if name in headers else None for name in telling}
        refuse_other_sizes(stored.config, shapes, stored.source, exact=known)
        refuse_bad_values(stored.config, stored.source)
        inventory = take_inventory(stored, few, experts)
        sites = inventory.sites
        config = read_config(stored.config, stored.source)
        said = read_said(config, known=known, raw=stored.config)
        wanted = {site.path: _wanted(site) for site in sites}
        if not headers:
            here = {name for names in wanted.values() for name in names}
            headers = _headers(stored, [shard for shard, held in stored.shards.items() if not here.isdisjoint(held)])
            refuse_broken_promises({name: _shard(stored, name) for name in here}, headers, str(stored.index))
        inventory.refuse_contradictions(headers)
    vocabulary = _vocabulary(inventory.tensors, headers, config)

    @cache
    def ids() -> frozenset[int] | None:
        return stored_ids(stored.files, stored.config)

    routers, not_checked, entries = [], [], 0
    for site, read in _read(stored, sites, wanted, headers, bars or Progress(shown=False)):
        entries += sum(tensor.numel() for tensor in read.values())
        try:
            gate = read_stored(site, read, said)
            if lacks := inventory.half(site):
                raise ValueError(lacks)
            routers.append(_evidence(gate, vocabulary, ids))
        except ValueError as error:
            not_checked.append(Unchecked(what=site.path, why=str(error), blocking=True))
    not_checked += [Unchecked(what=path, why=_UNTOLD, blocking=True) for path in inventory.untold]
    if inventory.missing:
        not_checked.append(
            Unchecked(what=_listed(inventory.missing), why="missing from the files; the model cannot be loaded")
        )
    not_checked += [
        Unchecked(what=NEEDS_FORWARD, why=WHY),
        Unchecked(what="the experts' weights", why=WHY),
    ]
    not_checked += [Unchecked(what=one.sentence(), why=one.why) for one in inventory.unread]
    facts = _describe(stored, headers, config, entries)
    return Scan(facts, routers, not_checked, inventory.unread, stored.files.bytes_read, stored.files.requests)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within this block no garbage is collected: the headers are 100,000s of small objects, and all of them stay.

    The collector would look through them, and through all of transformers, again and again: as long as the rest.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _headers(stored: StoredCheckpoint, shards: list[str]) -> dict[str, TensorHeader]:
    headers = read_all_headers(stored.files, {shard: stored.shards[shard] for shard in shards})
    if stored.files.at_hand and stored.index is not None:
        promised = {name: shard for shard in shards for name in stored.shards[shard]}
        refuse_broken_promises(promised, headers, stored.index)
    return headers


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} other tensors of the model ({', '.join(names[:3])}{more})"


def _shard(stored: StoredCheckpoint, name: str) -> str:
    return next((shard for shard, names in stored.shards.items() if name in names), "no shard")


def _wanted(site: StoredSite) -> list[str]:
    """Names in the files of what is read for a router: all that is its own, biases beside it, the norm before it."""
    parts = [*site.own.values(), *(part for name, part in site.beside.items() if "bias" in name)]
    if site.norm is not None:
        parts.append(site.norm)
    return list(dict.fromkeys(part.stored for part in parts))


def _read(
    stored: StoredCheckpoint,
    sites: list[StoredSite],
    wanted: dict[str, list[str]],
    headers: dict[str, TensorHeader],
    bars: Progress,
) -> Iterator[tuple[StoredSite, "dict[str, Tensor]"]]:
    """The tensors of one router after the other, while those of the next ones are on their way."""

    def read(site: StoredSite) -> "dict[str, Tensor]":
        small = [(name, headers[name]) for name in wanted[site.path] if _small(name, headers[name].shape)]
        return read_tensors(stored.files, small)

    size = sum(headers[name].stop - headers[name].start for names in wanted.values() for name in names)
    if stored.files.at_hand and size < _AT_ONCE:
        yield from ((site, read(site)) for site in sites)
        return
    with ThreadPoolExecutor(stored.files.workers) as pool:
        yield from zip(sites, bars.over(pool.map(read, sites), "reading", total=len(sites), unit="router"), strict=True)


def _small(name: str, shape: tuple[int, ...]) -> bool:
    """Whether this can be (a part of) a gate: at most a matrix, or its codes in blocks."""
    return len(shape) <= 2 or (len(shape) == 3 and belongs_to_codes(name))


def _evidence(gate: "Gate", vocabulary: int | None, ids: TokenIds) -> RouterEvidence:
    return RouterEvidence(
        router=gate.router,
        weights=gate_weights(gate, vocabulary, ids),
        experts=ExpertWeights(reason="the experts' weights were not read"),
    )


def _vocabulary(tensors: list[ModuleTensor], headers: dict[str, TensorHeader], config: Any) -> int | None:
    """Rows of the embedding where its header was read, else what the config says."""
    for tensor in tensors:
        if tensor.name.endswith("embed_tokens.weight") and tensor.stored in headers:
            return headers[tensor.stored].shape[0]
    said = getattr(config.get_text_config(), "vocab_size", None)
    return said if isinstance(said, int) else None


def _describe(stored: StoredCheckpoint, headers: dict[str, TensorHeader], config: Any, entries: int) -> Model:
    """Facts about the model; its size is known only where every header was read."""
    whole = stored.files.at_hand or stored.index is None
    dtype = next((said for name in ("dtype", "torch_dtype") if (said := _said(config, stored.config, name))), "unknown")
    return Model(
        source=stored.source,
        name=stored.name,
        revision=stored.revision,
        model_type=stored.model_type,
        architecture=stored.architecture or stored.model_type,
        dtype=dtype,
        parameters=sum(prod(header.shape) for header in headers.values()) if whole else None,
        router_parameters=entries,
        files=len(stored.shards),
        bytes=sum(header.stop - header.start for header in headers.values()) if whole else None,
    )


def _said(config: Any, raw: dict[str, Any], name: str) -> str:
    value = raw.get(name) or getattr(config.get_text_config(), name, None)
    return str(value).removeprefix("torch.") if value else ""
