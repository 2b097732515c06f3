"""Logits: their spread, their offset, their extremes, and what rounding leaves of them."""

import torch
from torch import Tensor

from moeprobe.findings.evidence import ExtremeLogit, Logits
from moeprobe.findings.router import Router
from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.observation import Observation
from moeprobe.statistics.rows import finite_rows, taken
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
        clean = finite_rows(logits)
        native = seen.record.logits
        if native is not None:
            clean &= finite_rows(native)
        self.nonfinite += int((~clean).sum())
        logits = taken(logits, clean).double()
        if not logits.shape[0]:
            return
        self.clean += logits.shape[0]
        centred = logits - logits.mean(dim=-1, keepdim=True)
        self.spread += _SPREAD.count(centred.square().mean(dim=-1).sqrt())
        self.total += logits.mean(dim=-1).sum().cpu()
        self.per_expert += centred.sum(dim=0).cpu()
        self.squares += centred.square().sum(dim=0).cpu()
        if native is not None and seen.recomputed:
            gap = taken(native, clean).double() - logits
            gap = gap - gap.mean(dim=-1, keepdim=True)
            self.noise += torch.stack([gap.square().sum().cpu(), torch.tensor(float(gap.numel())).double()])
        experts = taken(seen.record.experts, clean)
        chosen = logits.gather(-1, experts.clamp(0, logits.shape[-1] - 1)).flatten()
        chosen = taken(chosen, (experts >= 0).flatten())
        self.below += torch.stack([(chosen < NAIVE_EDGE).sum(), (chosen < CLAMP_EDGE).sum()]).cpu()
        self.pairs += chosen.numel()
        token_ids = None if seen.record.token_ids is None else taken(seen.record.token_ids, clean)
        # The router's own numbers decide what underflows, not their recomputation.
        extreme = logits if native is None else taken(native, clean)
        low, high = torch.aminmax(extreme)
        self._keep("smallest", extreme, token_ids, low)
        self._keep("largest", extreme, token_ids, high)

    def _keep(self, name: str, logits: Tensor, token_ids: Tensor | None, value: Tensor) -> None:
        before, number = getattr(self, name), float(value)
        if number > before[0] if name == "smallest" else number < before[0]:
            return
        # Among equals the one that a merge would keep, so that the order of batches plays no part.
        places = (logits == value).nonzero()
        best = torch.min if name == "smallest" else torch.max
        expert = best(places[:, 1])
        rows = places[:, 0][places[:, 1] == expert]
        token = -1.0 if token_ids is None else float(best(token_ids.to(rows.device)[rows]))
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
