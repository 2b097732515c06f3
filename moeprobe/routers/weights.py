"""What a router's own tensors say without a forward pass."""

from collections.abc import Callable

import torch

from moeprobe.findings.evidence import GateWeights
from moeprobe.findings.weights import ExpertWeights, NormGain
from moeprobe.routers.arithmetic import short
from moeprobe.routers.arrangement import Arrangement, arrangement
from moeprobe.routers.coupling import Coupling
from moeprobe.routers.duplicates import Gram, identical, nearest
from moeprobe.routers.experts import expert_tensors
from moeprobe.routers.find import Site
from moeprobe.routers.fingerprint import checksum
from moeprobe.routers.gate import Gate
from moeprobe.routers.gate_shape import gate_shape
from moeprobe.routers.gate_values import direction_count, distinct_share
from moeprobe.routers.sizes import Sizes, shared_sizes
from moeprobe.routers.table import TokenIds, table_facts

NO_GATE = "the gate's matrix is not known, has not a row for every expert or is not finite"
"""Why there is no tie to speak of."""


def gate_weights(gate: Gate, vocabulary: int | None, ids: TokenIds = lambda: None) -> GateWeights | None:
    """Row norms, broken rows, the logit bound and the hash table; None where the gate's matrix is unknown.

    Args:
        gate: the router's tensors.
        vocabulary: rows of the embedding, which the hash table must have; None where unknown.
        ids: the token ids that a text can hold; asked where the hash table has faults.

    """
    if gate.weight is None:
        return None
    weight = gate.weight.detach().float().cpu()
    finite = torch.isfinite(weight).all(dim=-1)
    norms = weight.norm(dim=-1)
    usable = bool(finite.all()) and bool((norms > 0).all())
    experts = weight[: gate.router.experts].double()
    gram = experts @ experts.T if usable else None
    near, cosine = nearest(_centred(experts, gram)) if gram is not None and len(experts) > 1 else (None, None)
    return GateWeights(
        dtype=gate.router.stored.format if gate.router.stored else short(gate.weight.dtype) or "",
        nonfinite_rows=(~finite).nonzero().flatten().tolist(),
        zero_rows=(finite & (norms == 0)).nonzero().flatten().tolist(),
        identical_rows=_identical(weight, finite & (norms > 0)),
        row_norms=[float(n) for n in norms],
        logit_bound=_bound(gate, weight) if bool(finite.all()) else None,
        hash_table=None if gate.table is None else table_facts(gate.table, gate.router.experts, vocabulary, ids),
        nearest_row=near,
        row_cosine=cosine,
        shape=gate_shape(experts, gram) if gram is not None else None,
        directions=direction_count(gram) if gram is not None else None,
        distinct=distinct_share(weight[: gate.router.experts]) if bool(finite.all()) else None,
        norm=_norm_gain(gate),
    )


def _norm_gain(gate: Gate) -> NormGain | None:
    gain = gate.gamma if gate.gain is None else gate.gain
    if gain is None or gate.router.norm is None:
        return None
    gain = gain.detach().double()
    size = float(gain.square().mean().sqrt())
    return NormGain(
        name=gate.router.norm, rms=size if size < float("inf") else None, positive=float((gain > 0).double().mean())
    )


def expert_weights(site: Site, gate: Gate) -> ExpertWeights:
    """Equal and similar experts, and whether the gate's rows belong to them."""
    shared = shared_sizes(site)
    try:
        tensors = expert_tensors(site, gate.router.experts)
    except ValueError as error:
        return ExpertWeights(reason=str(error), shared=shared)
    facts = ExpertFacts(gate.router.experts, gate.weight, lasting=True, known=arrangement(site))
    for expert in range(gate.router.experts):
        facts.add(expert, {name: views[expert] for name, views in tensors.items()})
    return facts.value(lambda one, two: all(torch.equal(views[one], views[two]) for views in tensors.values()), shared)


class ExpertFacts:
    """What ``expert_weights`` says, from experts that come one by one, in order.

    Args:
        count: number of experts.
        gate: [score columns, hidden] the gate's matrix, None where it is unknown.
        lasting: whether the experts' tensors stay as they are until ``value``.
        known: how their matrices lie, as far as their module says.

    """

    def __init__(self, count: int, gate: torch.Tensor | None, lasting: bool, known: Arrangement | None = None) -> None:
        rows = None if gate is None else gate.detach()[:count]
        self._several = count > 1
        self._gram = Gram(lasting)
        self._sizes = Sizes()
        self._checksums: list[str] = []
        usable = rows is not None and rows.shape[0] == count and bool(torch.isfinite(rows).all())
        self._coupling = Coupling(rows, known) if rows is not None and usable else None

    def add(self, expert: int, tensors: dict[str, torch.Tensor]) -> None:
        """Take in the tensors of the next expert."""
        self._gram.add(tensors)
        self._sizes.add(tensors)
        self._checksums.append(checksum(tensors))
        if self._coupling is not None:
            self._coupling.add(expert, tensors)

    def value(self, equal: Callable[[int, int], bool], shared: dict[str, float | None]) -> ExpertWeights:
        """The facts; ``equal`` compares two experts bit by bit, ``shared`` is what the shared expert's tensors say."""
        gram = self._gram.value()
        near, cosine = nearest(gram) if self._several else ([], [])
        tie, untied = (None, NO_GATE) if self._coupling is None else self._coupling.tie()
        return ExpertWeights(
            identical=identical(gram, equal),
            nearest=near,
            cosine=cosine,
            coupling=None if tie is None else tie.value,
            tie=tie,
            untied=untied,
            rms=self._sizes.value(),
            shared=shared,
            checksums=self._checksums,
        )


def _centred(rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Gram matrix [experts, experts] of the rows without their mean, from that of the rows as they are."""
    mean = gram.mean(dim=0)
    centred = gram - mean.unsqueeze(0) - mean.unsqueeze(1) + mean.mean()
    # Where little is left besides the mean, the difference of the products is rounding: subtract first.
    if float(centred.diagonal().min()) < 1e-6 * float(gram.diagonal().max()):
        apart = rows - rows.mean(dim=0)
        return apart @ apart.T
    return centred


def _identical(weight: torch.Tensor, usable: torch.Tensor) -> list[tuple[int, int]]:
    """Pairs (first, later) of rows that are equal bit for bit, zero rows left out."""
    seen: dict[bytes, int] = {}
    pairs = []
    for index in usable.nonzero().flatten().tolist():
        key = weight[index].numpy().tobytes()
        if key in seen:
            pairs.append((seen[key], index))
        else:
            seen[key] = index
    return pairs


def _bound(gate: Gate, weight: torch.Tensor) -> list[float] | None:
    """sqrt(D) * ||W_e * gamma|| + |b_e|: Cauchy-Schwarz behind an RMS norm (docs/science.md A2)."""
    if gate.gamma is None:
        return None
    bound = weight.shape[1] ** 0.5 * (weight * gate.gamma.cpu()).norm(dim=-1)
    if gate.logit_bias is not None:
        bound = bound + gate.logit_bias.detach().float().cpu().abs()
    return [float(b) for b in bound]
