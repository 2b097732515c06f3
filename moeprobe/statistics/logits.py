"""Logits: their spread, their offset, their extremes, and what rounding leaves of them."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import ExtremeLogit, Logits
from moeprobe.findings.router import Router
from moeprobe.routers.routing import lengths
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import both, column_sums, finite_rows, left_out, taken
from moeprobe.statistics.statistic import Statistic, counts, lexicographic, sums

NAIVE_EDGE = -16.63553
"""Below this, log(1 + exp(x)) is 0 in float32 (docs/science.md B0): kernels without a true softplus lose the score."""
CLAMP_EDGE = -13.8155
"""Below this, softplus(x) < 1e-6, where a clamp before the square root would act (docs/science.md B0)."""

_SPREAD = Scale(1e-6, 1e4)


class LogitStatistic(Statistic):
    """Spread over experts within a token, mean and variance per expert, extremes, non-finite rows."""

    added = ("spread", "clean", "nonfinite", "total", "per_expert", "squares", "noise", "below", "pairs")
    least = ("smallest",)
    most = ("largest",)

    def __init__(self, router: Router) -> None:
        self.spread = _SPREAD.zeros()
        self.clean = counts(1)
        self.nonfinite = counts(1)
        self.total = sums(1)
        self.per_expert = sums(router.score_columns)
        self.squares = sums(router.score_columns)
        self.noise = sums(2)
        self.below = counts(2)
        self.pairs = counts(1)
        self.smallest = torch.tensor([float("inf"), -1.0, -1.0], dtype=torch.float64)
        self.largest = torch.tensor([float("-inf"), -1.0, -1.0], dtype=torch.float64)

    def update(self, seen: Observation) -> None:
        """Take in the logits of one record; rows with a non-finite logit only count as such."""
        logits = seen.logits
        if logits is None:
            return
        native = seen.record.logits
        clean = seen.finite if seen.same_logits else both(finite_rows(logits), seen.finite)
        self.nonfinite += left_out(clean)
        logits = taken(logits, clean)
        if not logits.shape[0]:
            return
        self.clean += logits.shape[0]
        self._spread(logits)
        if seen.rounding is not None:
            gap = taken(seen.rounding, finite_rows(seen.rounding)).double()
            lost = float((gap - gap.mean(dim=-1, keepdim=True)).square().sum())
            self.noise += torch.tensor([lost, gap.numel()], dtype=torch.float64)
        self._look_below(logits, taken(seen.record.experts, clean), seen.slots_within(logits.shape[-1]))
        token_ids = None if seen.record.token_ids is None else taken(seen.record.token_ids, clean)
        # The router's own numbers decide what underflows, not their recomputation.
        extreme = logits if native is None or seen.same_logits else taken(native, clean)
        self._keep("smallest", extreme, token_ids, extreme.amin(dim=0).tolist())
        self._keep("largest", extreme, token_ids, extreme.amax(dim=0).tolist())

    def _spread(self, logits: Tensor) -> None:
        mean = logits.mean(dim=-1, keepdim=True)
        centred = logits - mean
        self.spread += _SPREAD.count(lengths(centred) / logits.shape[-1] ** 0.5)
        self.total += mean.sum(dtype=torch.float64).cpu()
        self.per_expert += column_sums(centred).cpu()
        self.squares += column_sums(centred.square_()).cpu()

    def _look_below(self, logits: Tensor, experts: Tensor, named: bool) -> None:
        """Count chosen logits below the edges; where none at all is, no chosen one is."""
        self.pairs += experts.numel() if named else int((experts >= 0).sum())
        if float(logits.amin()) >= CLAMP_EDGE:
            return
        chosen = logits.gather(-1, experts.clamp(0, logits.shape[-1] - 1))[experts >= 0].double()
        self.below += torch.stack([(chosen < NAIVE_EDGE).sum(), (chosen < CLAMP_EDGE).sum()]).cpu()

    def _keep(self, name: str, logits: Tensor, token_ids: Tensor | None, by_expert: list[float]) -> None:
        before, best = getattr(self, name), min if name == "smallest" else max
        number = best(by_expert)
        if best(number, float(before[0])) != number:
            return
        # Among equals the one that a merge would keep, so that the order of batches plays no part.
        expert = best(place for place, value in enumerate(by_expert) if value == number)
        rows = logits[:, expert] == number
        token = -1.0 if token_ids is None else float(best(token_ids.to(rows.device)[rows].tolist()))
        candidate = torch.tensor([number, float(expert), token], dtype=torch.float64)
        setattr(self, name, lexicographic(before, candidate, least=name == "smallest"))

    def value(self) -> Logits | None:
        """The logits in numbers, None where the router shows none."""
        seen, bad = int(self.clean), int(self.nonfinite)
        if seen + bad == 0:
            return None
        quantiles = _SPREAD.quantiles(self.spread)
        n = max(seen, 1)
        fixed = (self.per_expert / n).square().mean()
        whole = (self.squares / n).mean()
        noise = float((self.noise[0] / self.noise[1]).sqrt()) if float(self.noise[1]) else 0.0
        pairs = max(int(self.pairs), 1)
        return Logits(
            std=quantiles,
            mean=float(self.total) / n,
            smallest=_extreme(self.smallest),
            largest=_extreme(self.largest),
            nonfinite=bad,
            token_share=float((whole - fixed) / whole) if float(whole) > 0 else None,
            signal_to_rounding=quantiles.p50 / noise if noise > 0 and quantiles.p50 is not None else None,
            selected_below_naive=int(self.below[0]) / pairs,
            selected_below_clamp=int(self.below[1]) / pairs,
        )


def _extreme(state: Tensor) -> ExtremeLogit | None:
    value, expert, token = state.tolist()
    if expert < 0:
        return None
    return ExtremeLogit(value=value, expert=int(expert), token_id=None if token < 0 else int(token))
