"""Inventory: what the names in the files come to. Which routers there are, what is missing, what nobody reads."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.auto import choose_class
from moeprobe.checkpoint.expert_names import StoredExperts, counts
from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.checkpoint.names import ModuleTensor, module_tensors
from moeprobe.checkpoint.open import has_native_class
from moeprobe.checkpoint.open_stored import StoredCheckpoint
from moeprobe.checkpoint.placement import Placement, place
from moeprobe.checkpoint.quantised.naming import OF_CODES
from moeprobe.checkpoint.raw_config import text_part
from moeprobe.checkpoint.reasons import LIKE_ROUTING
from moeprobe.checkpoint.skeleton import skeleton, skeletons
from moeprobe.checkpoint.unread import PREDICTS, further_layers, of_tensors, predicts, unread_files, unread_tensors
from moeprobe.errors import CheckpointError, IncompleteError, NotMoEError
from moeprobe.findings.unread import Unread
from moeprobe.routers.find import find_sites
from moeprobe.routers.stored_sites import StoredSite, find_stored_sites
from moeprobe.weights_only.agreement import beyond, refuse_gaps, refuse_unlike
from moeprobe.weights_only.required import (
    OF_EXPERTS,
    Files,
    decides,
    refuse_lacking,
    refuse_misshapen,
    refuse_other_experts,
)
from moeprobe.weights_only.scales import refuse_unscaled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Inventory:
    """What a checkpoint holds, by the names of its tensors.

    ``tensors`` by their names in the modules, of experts stored one by one the first. ``placed`` is None for a model
    type that transformers does not have. ``untold`` are routers of the model that no name in the files shows.
    """

    stored: StoredCheckpoint
    text: Mapping[str, Any]
    tensors: list[ModuleTensor]
    sites: list[StoredSite]
    experts: Mapping[str, StoredExperts]
    placed: Placement | None
    unread: list[Unread]
    untold: list[str]

    @property
    def missing(self) -> list[str]:
        """Tensors without which the model cannot be loaded, though its routers can be judged."""
        return [] if self.placed is None else [name for name in self.placed.missing if not decides(name)]

    def refuse_contradictions(self, headers: Mapping[str, TensorHeader]) -> None:
        """Do nothing if the files hold what the model class, or else the config, requires of the routing.

        Args:
            headers: as far as they are known.

        Raises:
            IncompleteError: something is missing, or has another size.

        """
        make = None if self.placed is None else skeletons(self.stored.without_weights(), trust_remote_code=False)
        files = Files(self.stored.source, self.stored.config, headers, self.experts, make)
        if self.placed is None:
            refuse_gaps(files, self.sites, self.tensors, self.text)
            refuse_unlike(files, self.sites, self.text)
        else:
            refuse_lacking(files, self.placed)
            refuse_misshapen(files, self.placed, LIKE_ROUTING)
        refuse_other_experts(files, self.placed)
        if self.placed is not None:
            refuse_misshapen(files, self.placed, OF_EXPERTS)
        refuse_unscaled(files, [tensor.stored for tensor in self.tensors])

    def half(self, site: StoredSite) -> str:
        """What a gate in codes lacks that the other gates in codes have; "" where it lacks nothing."""
        held = {other.path: _codes(other) for other in self.sites}
        usual = Counter(kind for kind in held.values() if kind).most_common(1)
        lost = sorted(usual[0][0] - held[site.path]) if usual and held[site.path] else []
        return f"it has no {lost[0]}, which {usual[0][1]} other gates in codes have" if lost else ""


def _codes(site: StoredSite) -> frozenset[str]:
    """Names of what a gate's codes are read with."""
    return frozenset(name for name in site.own if OF_CODES.search(name))


def take_inventory(stored: StoredCheckpoint, few: list[str], experts: Mapping[str, StoredExperts]) -> Inventory:
    """Sort the tensors of a checkpoint by what they are for.

    Args:
        stored: the checkpoint.
        few, experts: the names of all its tensors, folded (``expert_names.fold_experts``).

    Raises:
        NotMoEError: it has no routers.
        IncompleteError: the config is that of a dense model, and the files hold routers.
        CheckpointError: the config does not make a model.

    """
    text = text_part(stored.config)
    empty = _skeleton(stored)
    if empty is None:
        placed, unread = None, []
        tensors = module_tensors(stored.config, few)
    else:
        placed = place(empty, few)
        tensors, unread = placed.tensors, unread_tensors(placed, experts, text, _left_out(stored))
    found = find_stored_sites(tensors, counts(experts))
    further = beyond(found, text) if placed is None else []
    if further:
        predicting = [one.stored for one in tensors if any(one.name.startswith(_block(site)) for site in further)]
        unread.append(of_tensors(predicting, PREDICTS, experts))
        tensors = [one for one in tensors if one.stored not in set(predicting)]
    sites, untold = [site for site in found if site not in further], list[str]()
    if empty is not None and placed is not None:
        sites, untold = _of_model(stored, empty, sites, placed)
        _refuse_dense_layers(stored, placed, text)
    if not sites and placed is None and (gate := next(filter(LIKE_ROUTING.search, few), None)) is not None:
        raise IncompleteError(
            f"The files of {stored.source} hold {gate}, which is named like a router's, and no experts next to it: "
            "they were left out or are named otherwise; get the checkpoint again, or convert it again."
        )
    if not sites and not _lacks_routers(placed):
        raise NotMoEError(
            f"No tensor of {stored.source} ({stored.model_type}) is named like a router's: it is a dense model, or "
            "one of a layout that only the loaded model shows (see `moeprobe analyze`)."
        )
    read = {*stored.shards, *([stored.index] if stored.index else [])}
    return Inventory(
        stored=stored,
        text=text,
        tensors=tensors,
        sites=sites,
        experts=experts,
        placed=placed,
        unread=[*unread, *unread_files(stored.listing, read)],
        untold=untold,
    )


def _skeleton(stored: StoredCheckpoint) -> "PreTrainedModel | None":
    """The model without weights; None where transformers has no class for it, or a package for it is not installed."""
    if not has_native_class(stored.model_type):
        return None
    try:
        return skeleton(stored.without_weights())
    except CheckpointError as error:
        if isinstance(error.__cause__, ImportError):
            return None
        raise


def _lacks_routers(placed: Placement | None) -> bool:
    """Whether the model has routers, and the files do not hold theirs: to be refused by name."""
    return placed is not None and any(decides(name) for name in placed.missing)


def _left_out(stored: StoredCheckpoint) -> tuple[str, ...]:
    return choose_class(stored.without_weights(), trust_remote_code=False).left_out


def _below(path: str, placed: Placement) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors below a path, by their names there."""
    start = f"{path}."
    return {name[len(start) :]: tuple(one.shape) for name, one in placed.empty.items() if name.startswith(start)}


def _refuse_dense_layers(stored: StoredCheckpoint, placed: Placement, text: Mapping[str, Any]) -> None:
    """Do nothing if no gate with experts lies in a layer that has none by config.json.

    Raises:
        IncompleteError: one does; layers of multi-token prediction and parts that are not loaded do not count.

    """
    further = further_layers(text)
    here = [name for name in placed.unplaced if not predicts(name, further) and name.startswith(tuple(_stacks(placed)))]
    for site in find_stored_sites([ModuleTensor(name, name) for name in here], {}):
        block = site.path.rpartition(".")[0]
        if any(name.startswith(f"{block}.experts.") for name in here):
            raise IncompleteError(
                f"The files of {stored.source} hold a gate and experts in {block}, which is not routed by config.json "
                "(first_k_dense_replace, mlp_only_layers, decoder_sparse_step or mlp_layer_types); correct "
                "config.json, or get the checkpoint again."
            )


def _stacks(placed: Placement) -> set[str]:
    """Starts of the stored names of layers that the model has."""
    found = (re.match(r"(.*?\.)\d+\.", tensor.stored) for tensor in placed.tensors)
    return {match[1] for match in found if match is not None}


def _block(site: StoredSite) -> str:
    """Path of the layer that holds a router, with a full stop: ``model.layers.61.``."""
    start, _, rest = site.path.partition(f".{site.layer}.")
    return f"{start}.{site.layer}." if rest else f"{site.path}."


def _of_model(
    stored: StoredCheckpoint, empty: "PreTrainedModel", found: list[StoredSite], placed: Placement
) -> tuple[list[StoredSite], list[str]]:
    """The routers that the model has, and those whose tensors no name in the files tells.

    Raises:
        IncompleteError: the model is dense, and the files hold routers.

    """
    routed = {site.path for site in find_sites(empty)}
    if not routed:
        gates = find_stored_sites([ModuleTensor(name, name) for name in placed.unplaced], {})
        if gates:
            raise IncompleteError(
                f"{stored.source} has the model_type {stored.model_type} in config.json, a dense model, and its files "
                f"hold routers ({next(iter(gates[0].own.values())).stored}); correct model_type and architectures."
            )
    sites = [replace(site, shapes=_below(site.path, placed)) for site in found if site.path in routed]
    known = {site.path for site in sites}
    here = [path for path in sorted(routed - known) if any(name.startswith(f"{path}.") for name in placed.sources)]
    return sites, here
