"""Magnitudes: how large the routed branch is beside the shared expert and the residual stream."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import Magnitudes
from moeprobe.findings.router import Router
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import Rows, both, finite, left_out, taken
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
            rows = both(finite(record.routed), seen.used)
            self.nonfinite += left_out(finite(record.routed))
            routed = taken(record.routed, rows).double()
            self.zero += int((taken(record.routed, seen.used) == 0).sum())
            self.routed += _squares(routed)
            for name, other in (("to_shared", record.shared), ("to_residual", record.residual)):
                if other is not None:
                    size = taken(other, rows).double()
                    usable = _positive(size)
                    histogram = getattr(self, name)
                    histogram += _RATIO.count(taken(routed, usable) / taken(size, usable))
        if (inputs := seen.input_sums) is not None:
            self.inputs += torch.tensor([inputs.squares / inputs.total.numel(), inputs.rows], dtype=torch.float64)
            self.input_mean += inputs.total

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


def _positive(values: Tensor) -> Rows:
    """Which of the values are finite and above zero."""
    lowest = float(values.amin()) if values.numel() else 1.0
    return both(finite(values), None if lowest > 0 else values > 0)


def _squares(values: Tensor) -> Tensor:
    """(sum of squares, count) of the values, float64."""
    return torch.tensor([float(values.dot(values)), values.numel()], dtype=torch.float64)
