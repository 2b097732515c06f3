"""Whose gate is it? Layers without a tie are held against each other's gates.

Two gates that were swapped have no tie to their own experts, in no order, and a clear one to the experts of the other
layer. Only layers without a tie are asked, so a sound model costs nothing; of many such layers none is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from moeprobe.findings.weights import ExpertWeights, ForeignTie
from moeprobe.routers.arrangement import arrangement
from moeprobe.routers.coupling import Coupling
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate

Experts = Callable[[Site, int], Iterator[dict[str, Tensor]]]
"""The tensors of a site's experts, of which there are so many, one after the other."""

_NO_TIE = 3.0
"""Standard errors up to which a layer is asked; a detector's limit decides what is said of it."""
_MOST = 8
"""Layers without a tie that are held against each other; where more have none, their gates are not just swapped."""


def with_foreign_ties(
    weights: Mapping[str, ExpertWeights], gates: Sequence[Gate], sites: Mapping[str, Site], experts: Experts
) -> dict[str, ExpertWeights]:
    """The experts' facts by router, where there is no tie with the gate of another such layer that fits best.

    Args:
        weights: by path of the router.
        gates: all of them, with their matrices.
        sites: by path of the router.
        experts: reads the experts of a site once more.

    """
    asked = [gate for gate in gates if _asked(gate, weights.get(gate.router.path))]
    found = dict(weights)
    if not 2 <= len(asked) <= _MOST:
        return found
    for gate in asked:
        others = [other for other in asked if other is not gate and _matrix(other).shape == _matrix(gate).shape]
        if others:
            path = gate.router.path
            found[path] = found[path].model_copy(
                update={"foreign": _best(sites[path], gate.router.experts, others, experts)}
            )
    return found


def _asked(gate: Gate, facts: ExpertWeights | None) -> bool:
    return (
        facts is not None
        and facts.coupling is not None
        and facts.coupling <= _NO_TIE
        and gate.router.kind == "top-k"
        and gate.weight is not None
        and bool(torch.isfinite(_matrix(gate)).all())
    )


def _matrix(gate: Gate) -> Tensor:
    assert gate.weight is not None
    return gate.weight.detach()[: gate.router.experts]


def _best(site: Site, count: int, others: Sequence[Gate], experts: Experts) -> ForeignTie | None:
    couplings = [(other.router.path, Coupling(_matrix(other), arrangement(site))) for other in others]
    for expert, tensors in enumerate(experts(site, count)):
        for _, coupling in couplings:
            coupling.add(expert, tensors)
    ties = [(value, path) for path, coupling in couplings if (value := coupling.value()) is not None]
    return ForeignTie(router=max(ties)[1], value=max(ties)[0]) if ties else None
