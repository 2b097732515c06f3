"""Coupling: does each gate row belong to its own expert?

Training ties them together: the tokens that a row selects are the tokens that its expert learns from, so an
expert's input matrices answer to their own row differently than to the rows of the other experts. A gate that
was never trained, or whose rows stand in another order, has no such tie, and then which expert meets which row
is a permutation like any other. That gives an exact null distribution without a reference (see tie.py).
"""

from functools import cache

import torch
from torch import Tensor

from moeprobe.findings.weights import RowTie
from moeprobe.routers.arrangement import Arrangement, Inputs, find_inputs
from moeprobe.routers.tie import row_tie

_NEURONS = 256
"""Neurons of an expert that are looked at, spread evenly."""
_FAR = 3.0
"""Times the median norm beyond which a row is another fault's: it would make the mean, and hide the others' ties."""
_FEWEST = 3
"""Experts below which there is nothing to compare."""


class Coupling:
    """How the experts answer to their own gate rows and to those of others, expert by expert.

    Two answers are kept: the energy of all input matrices along the row, and the mean along it of the matrix
    behind the activation.

    Args:
        gate: [experts, hidden] the gate matrix.
        known: how the experts' tensors lie, as far as their module says.

    """

    def __init__(self, gate: Tensor, known: Arrangement | None = None) -> None:
        self._rows = _apart(gate.float())
        self._count, self._hidden = self._rows.shape
        self._energy = torch.zeros(self._count, self._count, device=gate.device)
        self._mean = torch.zeros(self._count, self._count, device=gate.device)
        self._known = known or Arrangement()
        self._inputs: Inputs | None = None

    def add(self, expert: int, tensors: dict[str, Tensor]) -> None:
        """Take in one expert's tensors (see ``expert_tensors``)."""
        if self._inputs is None:
            shapes = {name: view.shape for name, view in tensors.items()}
            self._inputs = find_inputs(shapes, self._hidden, self._known)
        rows = self._rows
        for name, place in self._inputs.hidden.items():
            matrix = tensors[name] if place == 1 else tensors[name].T
            answer = _answer(_some(matrix, paired=name in self._inputs.paired).to(rows.device), rows)
            self._energy[expert] += answer.square().sum(dim=0)
            if name in self._inputs.activated:
                half = _some(matrix[self._inputs.activated[name]])
                # The mean of the answers is the answer to the mean.
                self._mean[expert] += rows @ half.float().to(rows.device).mean(dim=0)

    def tie(self) -> tuple[RowTie | None, str]:
        """What the answers of all experts say; or None, and why nothing can be said."""
        if reason := self._reason():
            return None, reason
        found = row_tie(self._energy.double().cpu().numpy(), self._mean.double().cpu().numpy())
        return found, "" if found else "all experts answer alike to all rows"

    def value(self) -> float | None:
        """The tie in standard errors: 0 +- 1 for an unrelated gate; None where it is not known."""
        found, _ = self.tie()
        return None if found is None else found.value

    def _reason(self) -> str:
        if self._inputs is None:
            return "no expert was read"
        if self._inputs.reason:
            return self._inputs.reason
        if self._count < _FEWEST:
            return f"{self._count} experts are too few to compare"
        if not bool(torch.isfinite(self._energy).all() & torch.isfinite(self._mean).all()):
            return "weights of the experts are not finite, or too large to multiply"
        return ""


def _apart(gate: Tensor) -> Tensor:
    """[experts, hidden] the rows without their mean; one that is far larger than the others counts like them."""
    norms = gate.norm(dim=1)
    usual = norms.median()
    plain = (norms <= _FAR * usual) | (usual == 0)
    centred = gate - gate[plain].mean(dim=0)
    return torch.where(plain, 1.0, usual / norms)[:, None] * centred


def _answer(neurons: Tensor, rows: Tensor) -> Tensor:
    """[neurons, rows] products in float32; from bfloat16 weights on a processor that multiplies those natively.

    That is many times as fast, and moves the result by less than 0.01 standard errors (measured on trained models).
    """
    if neurons.dtype is torch.bfloat16 and rows.device.type == "cpu" and _multiplies_bfloat16():
        return (neurons.contiguous() @ rows.to(torch.bfloat16).T).float()
    return neurons.float() @ rows.T


@cache
def _multiplies_bfloat16() -> bool:
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # None where torch is built without oneDNN
    return known is not None and bool(known())


def _some(matrix: Tensor, paired: bool = False) -> Tensor:
    """Neurons spread evenly; ``paired``: two neighbours at a time, or only those of one of two matrices may be met."""
    if paired:
        first, second = (_some(matrix[start::2])[:: 2 if matrix.shape[0] > _NEURONS else 1] for start in (0, 1))
        return torch.cat([first, second])
    return matrix[:: max(1, matrix.shape[0] // _NEURONS)][:_NEURONS]
