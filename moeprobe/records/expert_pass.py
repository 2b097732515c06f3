"""ExpertPass: the experts of one module in order, for all batches that need them and for what their weights say."""

from functools import partial

import torch
from torch import Tensor, nn

from moeprobe.checkpoint.single import SingleExperts
from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.arrangement import arrangement
from moeprobe.routers.experts import stacked_names
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.sizes import shared_sizes
from moeprobe.routers.tensors import own_tensors
from moeprobe.routers.weights import NO_GATE, ExpertFacts

_OTHER_GATE = "the matrix that chose is not the one that stands in the router"


class ExpertPass:
    """One pass over the experts of a module, each of which is read once.

    Args:
        experts: reads them.
        site: whose experts they are; its router is in memory.

    """

    def __init__(self, experts: SingleExperts, site: Site) -> None:
        self.path = experts.path
        self._experts = experts
        self._site = site
        self.position = -1
        """The expert that is in memory; -1 before the first."""
        self._tensors: dict[str, Tensor] = {}
        self._matrix = _gate_matrix(site.router, experts.count)
        self._names: list[str] = []
        self._facts: ExpertFacts | None = None
        self._reason = ""
        try:
            self._names = stacked_names(site, experts.count)
            self._facts = ExpertFacts(experts.count, self._matrix, lasting=False, known=arrangement(site))
        except ValueError as error:
            self._reason = str(error)

    def bring(self, expert: int) -> dict[str, Tensor]:
        """The tensors of an expert, each [1, ...]; those before it, which nobody asked for, are looked at on the way.

        A later expert makes them invalid.
        """
        while self.position < expert:
            self.position += 1
            self._experts.expect(self.position + 1)
            self._tensors = {}  # before the next ones are made
            self._tensors = self._experts.read(self.position)
            if self._facts is not None:
                self._facts.add(self.position, {name: self._tensors[name][0] for name in self._names})
        if self.position > expert:
            # A model that asks in another order than that of the experts is served, if not fast.
            return self._experts.read(expert)
        return self._tensors

    def finish(self, gate: Gate | None) -> ExpertWeights | None:
        """What the weights of all experts say; ``gate`` is the router that the batches showed, None if none did."""
        self.bring(self._experts.count - 1)
        self._tensors = {}
        shared = shared_sizes(self._site)
        if self._facts is None:
            return ExpertWeights(reason=self._reason, shared=shared)
        found = self._facts.value(partial(_equal, self._experts), shared)
        if self._belongs(gate):
            return found
        why = NO_GATE if gate is None or gate.weight is None else _OTHER_GATE
        return found.model_copy(update={"coupling": None, "tie": None, "untied": why})

    def _belongs(self, gate: Gate | None) -> bool:
        """Whether the matrix that the experts were held against is the gate's, or a multiple of it."""
        if gate is None or gate.weight is None or self._matrix is None:
            return False
        one, other = (tensor[: self._experts.count].double() for tensor in (self._matrix, gate.weight))
        if one.shape != other.shape:
            return False
        factor = float((one * other).sum() / one.square().sum().clamp_min(1e-300))
        return bool(factor > 0 and torch.allclose(factor * one, other, rtol=1e-5, atol=0, equal_nan=True))


def _equal(experts: SingleExperts, first: int, second: int) -> bool:
    """Whether two experts are equal bit for bit; they are read once more."""
    kept = {name: tensor.clone() for name, tensor in experts.read(first).items()}
    return all(torch.equal(kept[name], tensor) for name, tensor in experts.read(second).items())


def _gate_matrix(router: nn.Module, count: int) -> Tensor | None:
    """The gate's matrix, before the router has run."""
    tensors = (tensor for _, tensor in own_tensors(router) if tensor.is_floating_point() and tensor.ndim == 2)
    return next((tensor for tensor in tensors if tensor.shape[0] >= count), None)
