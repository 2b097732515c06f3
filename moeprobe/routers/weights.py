"""What a router's own tensors say without a forward pass."""

from collections.abc import Callable

import torch

from moeprobe.findings.evidence import GateWeights, HashTable
from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.arithmetic import short
from moeprobe.routers.arrangement import Arrangement, arrangement
from moeprobe.routers.coupling import Coupling
from moeprobe.routers.duplicates import Gram, identical, nearest
from moeprobe.routers.experts import expert_tensors
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.gate_shape import gate_shape

NO_GATE = "the gate's matrix is not known, has not a row for every expert or is not finite"
"""Why there is no tie to speak of."""


def gate_weights(gate: Gate, vocabulary: int | None) -> GateWeights | None:
    """Row norms, broken rows, the logit bound and the hash table; None where the gate's matrix is unknown.

    Args:
        gate: the router's tensors.
        vocabulary: rows of the embedding, which the hash table must have; None where unknown.

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
        dtype=short(gate.weight.dtype) or "",
        nonfinite_rows=(~finite).nonzero().flatten().tolist(),
        zero_rows=(finite & (norms == 0)).nonzero().flatten().tolist(),
        identical_rows=_identical(weight, finite & (norms > 0)),
        row_norms=[float(n) for n in norms],
        logit_bound=_bound(gate, weight) if bool(finite.all()) else None,
        hash_table=_hash_table(gate, vocabulary),
        nearest_row=near,
        row_cosine=cosine,
        shape=gate_shape(experts, gram) if gram is not None else None,
    )


def expert_weights(site: Site, gate: Gate) -> ExpertWeights:
    """Equal and similar experts, and whether the gate's rows belong to them."""
    try:
        tensors = expert_tensors(site, gate.router.experts)
    except ValueError as error:
        return ExpertWeights(reason=str(error))
    facts = ExpertFacts(gate.router.experts, gate.weight, lasting=True, known=arrangement(site))
    for expert in range(gate.router.experts):
        facts.add(expert, {name: views[expert] for name, views in tensors.items()})
    return facts.value(lambda one, two: all(torch.equal(views[one], views[two]) for views in tensors.values()))


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
        usable = rows is not None and rows.shape[0] == count and bool(torch.isfinite(rows).all())
        self._coupling = Coupling(rows, known) if rows is not None and usable else None

    def add(self, expert: int, tensors: dict[str, torch.Tensor]) -> None:
        """Take in the tensors of the next expert."""
        self._gram.add(tensors)
        if self._coupling is not None:
            self._coupling.add(expert, tensors)

    def value(self, equal: Callable[[int, int], bool]) -> ExpertWeights:
        """The facts; ``equal`` compares two experts bit by bit."""
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


def _hash_table(gate: Gate, vocabulary: int | None) -> HashTable | None:
    if gate.table is None:
        return None
    table = gate.table.detach().cpu().long()
    experts = gate.router.experts
    ordered = table.sort(dim=-1).values
    reached = torch.bincount(table[(table >= 0) & (table < experts)], minlength=experts) > 0
    return HashTable(
        rows=table.shape[0],
        vocabulary=table.shape[0] if vocabulary is None else vocabulary,
        out_of_range=int(((table < 0) | (table >= experts)).sum()),
        rows_with_repeats=int((ordered[:, 1:] == ordered[:, :-1]).any(dim=-1).sum()),
        constant=bool((table == table[0]).all()),
        all_zero=bool((table == 0).all()),
        unreachable=(~reached).nonzero().flatten().tolist(),
    )
