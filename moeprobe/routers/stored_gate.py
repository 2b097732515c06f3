"""Read a router from the files: its tensors as they are stored, and the rule that the config declares.

Nothing runs, so the rule is declared and never measured; the detectors skip what needs a measured one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.config_fields import TOP_K
from moeprobe.checkpoint.quantised.codes import UnreadableError
from moeprobe.checkpoint.quantised.declared import quantisation_of
from moeprobe.checkpoint.quantised.restore import refuse_codes, restore_all
from moeprobe.findings.router import Bias, Declared, Router, Stored
from moeprobe.routers.arithmetic import short
from moeprobe.routers.gate import Gate
from moeprobe.routers.read import read_declared
from moeprobe.routers.still import SELECTION_BIAS
from moeprobe.routers.stored_sites import StoredSite
from moeprobe.routers.tensors import Named

NOT_RUN = "only the weights were read; nothing ran"
CLASS_UNKNOWN = "not loaded"
_TABLE = re.compile(r"tid2eid|hash|table")


@dataclass(frozen=True)
class Said:
    """What a config says about all routers: the declared rule, top-k (0: nothing), and numbers of experts.

    ``known``: whether transformers knows the model type; else the role of a tensor that is just called *bias* is open,
    and it is not judged. ``quantised`` is the quantisation config, ``hidden`` the width of the hidden states.
    """

    declared: Declared
    top_k: int
    experts: tuple[int, ...]
    known: bool
    quantised: Mapping[str, Any] = field(default_factory=dict)
    hidden: int | None = None

    @property
    def needs_norm(self) -> bool:
        """Whether the norm before the router tells anything: only sqrt(softplus) scores are bounded by weights."""
        return self.declared.score_function == "sqrtsoftplus"


def read_said(config: Any, *, known: bool, raw: Mapping[str, Any] | None = None) -> Said:
    """Read a config (``checkpoint.raw_config``; ``raw``: config.json) once for all routers."""
    text = config.get_text_config()
    counts = [getattr(text, name, None) for name in ("n_routed_experts", "num_experts", "num_local_experts")]
    experts = tuple(n for n in counts if isinstance(n, int))
    hidden = getattr(text, "hidden_size", None)
    return Said(
        read_declared(config),
        _top_k(text),
        experts,
        known,
        quantisation_of(raw or {}),
        hidden if isinstance(hidden, int) else None,
    )


def read_stored(site: StoredSite, tensors: Mapping[str, Tensor], said: Said) -> Gate:
    """Facts and tensors of a router.

    Args:
        site: where it stands.
        tensors: by the files' names: all that could be read of the site's own, those beside it, and the norm.
        said: what the config says.

    Raises:
        ValueError: no gate matrix can be made out; the message says why (``UnreadableError``: it cannot be
            dequantised).

    """
    own = {name: part.of(tensors[part.stored]) for name, part in site.own.items() if part.stored in tensors}
    files = {name: part.stored for name, part in site.own.items()}
    own, restored = restore_all(own, files, said.quantised, said.hidden)
    _refuse_no_numbers(own)
    place, matrix = _matrix(site, own)
    _refuse_other_shape(site, said, place, matrix)
    table = next(
        (t for name, t in own.items() if not t.is_floating_point() and t.ndim == 2 and _TABLE.search(name)), None
    )
    bias = None if table is not None else _selection_bias(site, own, tensors, matrix.shape[0])
    if bias is not None:
        matrix = matrix[: bias[1].shape[0]]
    columns = matrix.shape[0]
    stored = restored.get(place)
    plain = _plain_bias(own, place, columns)
    known = said.known
    top_k = said.top_k if table is None else table.shape[1]
    reasons = [NOT_RUN]
    if not known and plain is not None:
        reasons.append(f"what {plain[0]} is for is not known")
    if top_k == 0:
        reasons.append("the config does not say how many experts are chosen")
    router = Router(
        path=site.path,
        layer=site.layer,
        kind="top-k" if table is None else "hash",
        module=CLASS_UNKNOWN,
        experts=_experts(site, said, columns),
        score_columns=columns,
        top_k=top_k,
        hidden_size=matrix.shape[1],
        selection_bias=_fact(bias),
        logit_bias=_fact(plain) if known else None,
        shared_experts=site.shared_name,
        shared_gate=site.shared_gate,
        norm=None if site.norm is None else site.norm.name.rpartition(".")[0],
        declared=said.declared,
        stored=None if stored is None else Stored(bits=stored.bits, format=stored.words),
        origin="found",
        reason="; ".join(reasons),
    )
    gain = None
    if site.norm is not None and site.norm.stored in tensors:
        gain = site.norm.of(tensors[site.norm.stored]).float()
        gain = gain if gain.shape == matrix.shape[1:] else None
    return Gate(
        router=router,
        weight=matrix,
        logit_bias=plain[1] if known and plain is not None else None,
        selection_bias=None if bias is None else bias[1],
        table=table,
        gamma=gain if said.needs_norm else None,
        gain=gain,
    )


def _refuse_no_numbers(own: Mapping[str, Tensor]) -> None:
    """Do nothing if all that a router computes with is finite, and is what its name says.

    A gate or a selection bias that is not finite is a finding; factors and the like are not judged, so they are
    refused here.
    """
    for name, tensor in own.items():
        numbers = tensor.is_floating_point()
        if _TABLE.search(name) and (numbers or tensor.dtype is torch.bool):
            raise ValueError(f"{name} is stored as {short(tensor.dtype)}, and a table holds whole numbers")
        if SELECTION_BIAS.search(name) and not numbers:
            raise ValueError(f"{name} is stored as {short(tensor.dtype)}, and a bias holds numbers with fractions")
        if "scale" in name and numbers and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} is not finite, so neither is what the router makes of it")
        if "scale" in name and numbers and tensor.numel() and not bool(tensor.any()):
            raise ValueError(f"{name} is all zero, so the router prefers no expert")


def _refuse_other_shape(site: StoredSite, said: Said, name: str, matrix: Tensor) -> None:
    """Do nothing if a gate that was stored in codes came out as [experts, hidden size]."""
    expected = site.shapes.get(name)
    if expected is not None and tuple(matrix.shape) != expected:
        raise UnreadableError(f"{name} comes out as {list(matrix.shape)}, and the model has {list(expected)} there")
    rows = [count for count in said.experts if count > 0]
    if expected is None and site.experts is not None and rows and matrix.shape[0] < min(rows):
        raise UnreadableError(f"{name} comes out with {matrix.shape[0]} rows for {min(rows)} experts")


def _matrix(site: StoredSite, own: Mapping[str, Tensor]) -> Named:
    """The gate matrix: the only one that the router has, with at least a row an expert."""
    unread = [name for name in site.own if name not in own]
    least = site.experts if site.experts is not None else 2
    matrices = [
        (name, tensor)
        for name, tensor in own.items()
        # Ernie keeps its bias as [1, columns].
        if tensor.ndim == 2
        and (tensor.shape[0] > 1 or least == 1)
        and tensor.is_floating_point()
        and "bias" not in name
    ]
    if len(matrices) != 1 and unread:
        raise UnreadableError(f"{unread[0]} is stored in a way that moeprobe cannot read")
    if len(matrices) != 1:
        raise ValueError(f"it has {len(matrices) or 'no'} matrices, so its logits are not one product")
    name, matrix = matrices[0]
    if matrix.shape[0] < min(least, matrix.shape[1]) and least <= matrix.shape[1]:
        raise ValueError(f"{name} has {matrix.shape[0]} rows for {least} experts")
    return name, matrix


def _selection_bias(
    site: StoredSite, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rows: int
) -> Named | None:
    """A value for each score column; the shared experts' rows of the gate (Inkling) have none."""
    beside = {name: part.of(tensors[part.stored]) for name, part in site.beside.items() if part.stored in tensors}
    odd: Named | None = None
    for name, tensor in [*own.items(), *beside.items()]:
        refuse_codes(name, tensor)
        if not SELECTION_BIAS.search(name):
            continue
        fits = tensor.ndim >= 1 and tensor.is_floating_point() and tensor.numel() == tensor.shape[-1]
        if fits and 1 < tensor.numel() <= rows:
            return name, tensor.reshape(-1)
        odd = odd or (name, tensor)
    if odd is not None and rows > 1:
        raise ValueError(f"{odd[0]} is {list(odd[1].shape)}, and the gate has {rows} rows")
    return None


def _plain_bias(own: Mapping[str, Tensor], matrix: str, columns: int) -> Named | None:
    """The bias beside the matrix, as a linear layer has one."""
    name = f"{matrix.rpartition('weight')[0]}bias"
    tensor = own.get(name)
    return (name, tensor) if tensor is not None and tensor.shape == (columns,) else None


def _experts(site: StoredSite, said: Said, columns: int) -> int:
    # The config first: zero and skip experts may be stored among the others.
    counts = [*said.experts, *([] if site.experts is None else [site.experts])]
    return next((count for count in counts if 0 < count <= columns), columns)


def _top_k(text: Any) -> int:
    """How many experts the config says are chosen, 0 where it does not say."""
    said = getattr(text, "num_experts_per_tok", None)
    if isinstance(said, int) and said > 0:
        return said
    levels = [vars(text), *(vars(part) for part in vars(text).values() if hasattr(part, "__dict__"))]
    levels += [part for part in vars(text).values() if isinstance(part, dict)]
    found = {
        value for level in levels for name, value in level.items() if isinstance(value, int) and TOP_K.match(str(name))
    }
    return found.pop() if len(found) == 1 else 0


def _fact(bias: Named | None) -> Bias | None:
    if bias is None:
        return None
    dtype = short(bias[1].dtype) or ""
    return Bias(name=bias[0], dtype=dtype, stored_dtype=dtype, values=bias[1].double().tolist())
