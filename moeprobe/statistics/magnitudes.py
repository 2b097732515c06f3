"""Magnitudes: how large the routed branch is beside the shared expert and the residual stream."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import Magnitudes
from moeprobe.findings.router import Router
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import finite_rows, taken
from moeprobe.statistics.statistic import Statistic, counts, sums

_RATIO = Scale(1e-6, 1e6)


class MagnitudeStatistic(Statistic):
    """Ratios of L2 norms per token, and the spread of the router's input over tokens."""

    added = ("to_shared", "to_residual", "nonfinite", "zero", "routed", "inputs", "input_mean")

    def __init__(self, router: Router) -> None:
        self._router = router
        self.to_shared = _RATIO.zeros()
        self.to_residual = _RATIO.zeros()
        self.nonfinite = counts(1)
        self.zero = counts(1)
        self.routed = sums(2)
        self.inputs = sums(2)
        self.input_mean = sums(router.hidden_size)

    def update(self, seen: Observation) -> None:
        """Take in the norms of one record."""
        record = seen.record
        if record.routed is not None:
            # A token that was dropped or skipped has no routed output, rightly.
            used = (record.experts >= 0).any(dim=-1)
            finite = torch.isfinite(record.routed) & used
            self.nonfinite += int((~torch.isfinite(record.routed)).sum())
            self.zero += int(((record.routed == 0) & used).sum())
            self.routed += _pair(taken(record.routed, finite).double().square())
            for name, other in (("to_shared", record.shared), ("to_residual", record.residual)):
                if other is not None:
                    usable = finite & torch.isfinite(other) & (other > 0)
                    histogram = getattr(self, name)
                    histogram += _RATIO.count(taken(record.routed, usable).double() / taken(other, usable).double())
        if record.inputs is not None:
            inputs = taken(record.inputs, finite_rows(record.inputs)).double()
            flat, width = inputs.flatten(), inputs.shape[-1]
            self.inputs += torch.tensor([float(flat.dot(flat)) / width, inputs.shape[0]], dtype=torch.float64)
            self.input_mean += (inputs.new_ones(inputs.shape[0]) @ inputs).cpu()

    def value(self) -> Magnitudes | None:
        """The magnitudes in numbers; the input spread is 1 - |mean|^2 / mean |x|^2 under a square root."""
        n = float(self.inputs[1])
        if n == 0 and float(self.routed[1]) == 0 and int(self.nonfinite) == 0:
            return None
        mean_square = float(self.inputs[0]) / n if n else 0.0
        squared_mean = float((self.input_mean / n).square().mean()) if n else 0.0
        tokens = float(self.routed[1])
        return Magnitudes(
            routed_to_shared=_RATIO.quantiles(self.to_shared) if int(self.to_shared.sum()) else None,
            routed_to_residual=_RATIO.quantiles(self.to_residual) if int(self.to_residual.sum()) else None,
            routed_nonfinite=int(self.nonfinite),
            routed_zero=int(self.zero),
            input_rms=mean_square**0.5,
            routed_rms=(float(self.routed[0]) / tokens / self._router.hidden_size) ** 0.5 if tokens else None,
            input_token_spread=max(0.0, 1 - squared_mean / mean_square) ** 0.5 if mean_square > 0 else None,
        )


def _pair(values: Tensor) -> Tensor:
    """(sum, count) of the values."""
    return torch.tensor([float(values.sum()), float(values.numel())], dtype=torch.float64)
