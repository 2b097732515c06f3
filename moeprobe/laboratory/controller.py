"""The balance controller: rules that move a selection bias until the load is even, run on recorded scores.

With c_e the assignments of expert e in a batch and m their mean:

    sign           b += u * sign(m - c)                    Loss-free balancing, DeepSeek-V3's noaux_tc (2408.15664)
    centred sign   b += u * (sign(m - c) - its mean)       keeps the mean of the bias where it is
    proportional   b += u * (m - c) / m                    the variant of 2408.15664, in relative counts

The token's scores stay as they are: this is the controller alone, without the training that goes on beside it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moeprobe.findings.gates import BalanceRule, Controller, Law, RuleRun
from moeprobe.laboratory.alternatives import Chooser
from moeprobe.laboratory.sample import RouterSample
from moeprobe.routers.rule import choose, selection_scores
from moeprobe.statistics.intervals import max_vio, uniform_floor

RULES: tuple[BalanceRule, ...] = ("sign", "centred sign", "proportional")
_POINTS = 40
"""Times at which MaxVio and the offset are seen."""


@dataclass(frozen=True)
class Plan:
    """Size of a bias step, how often it is made, and the tokens of a batch."""

    step: float = 1e-3
    updates: int = 1000
    batch: int = 1024


def controller(sample: RouterSample, plan: Plan, seed: int) -> Controller:
    """Run every rule on one router.

    Half of the sample is what the batches are drawn from, with replacement; MaxVio is seen on the other half.

    Args:
        sample: rows of a router with a known score function that chooses by its scores.
        plan: step, updates and batch.
        seed: drives the batches; they are the same for every rule.

    """
    router = sample.gate.router
    assert router.score_function is not None
    chooser = Chooser(sample, router.score_function)
    # The rules change the choice only: what the bias is added to is computed once.
    fitted, held = (chooser.ranked(half) for half in sample.halves())
    own = chooser.bias
    law = -quantiles(fitted, router.top_k)

    def violation(bias: Tensor | None) -> float:
        return _max_vio(_load(held, bias, chooser, router.top_k))

    floor = uniform_floor(held.shape[0], held.shape[1], router.top_k)
    batches = _batches(fitted.shape[0], plan, seed)
    both = chooser.ranked(sample.logits)
    return Controller(
        function="logits" if router.bias_on == "logits" and own is not None else router.score_function,
        step=plan.step,
        batch=batches.shape[1],
        rows=held.shape[0],
        floor=floor,
        unbiased=violation(None),
        by_checkpoint=None if own is None else violation(own),
        one_shot=violation(law),
        own_offset=None if own is None else float(own.mean()),
        own_spread=None if own is None else float(own.double().std(correction=0)),
        law=None if own is None else compare(own, -quantiles(both, router.top_k)),
        rules=[_run(rule, fitted, held, chooser, router.top_k, batches, plan, floor, law) for rule in RULES],
    )


def quantiles(score: Tensor, k: int) -> Tensor:
    """Q_e(1 - k/E) of every column of ``score`` [rows, E], float32."""
    return score.float().quantile(1 - k / score.shape[-1], dim=0)


def compare(bias: Tensor, law: Tensor) -> Law:
    """Correlation of a bias [E] with what the law gives, and the slope of the line through both."""
    x, y = law.double() - law.double().mean(), bias.double() - bias.double().mean()
    spread = float(x.square().sum() * y.square().sum()) ** 0.5
    if not spread > 0:
        return Law(correlation=None, slope=None)
    return Law(correlation=float((x * y).sum()) / spread, slope=float((x * y).sum() / x.square().sum()))


def update(rule: BalanceRule, load: Tensor) -> Tensor:
    """The direction [E] in which a rule moves the bias at this ``load`` [E] of assignments."""
    gap = load.mean() - load
    if rule == "proportional":
        return gap / load.mean()
    signs = gap.sign()
    return signs - signs.mean() if rule == "centred sign" else signs


def _run(
    rule: BalanceRule,
    fitted: Tensor,
    held: Tensor,
    chooser: Chooser,
    k: int,
    batches: Tensor,
    plan: Plan,
    floor: float,
    law: Tensor,
) -> RuleRun:
    # Ten thousand steps of 1e-3 would lose digits in float32.
    bias = torch.zeros(fitted.shape[1], dtype=torch.float64)
    seen_at = sorted({round(plan.updates * place / _POINTS) for place in range(_POINTS + 1)})
    updates: list[int] = []
    violations: list[float] = []
    offsets: list[float] = []
    for done in range(plan.updates + 1):
        if done in seen_at:
            updates.append(done)
            violations.append(_max_vio(_load(held, bias.float(), chooser, k)))
            offsets.append(float(bias.mean()))
        if done < plan.updates:
            bias += plan.step * update(rule, _load(fitted[batches[done]], bias.float(), chooser, k))
    late = violations[-max(1, len(violations) // 4) :]
    beyond = [place for place, value in enumerate(violations) if value > 2 * floor]
    settled = beyond[-1] + 1 if beyond else 0
    return RuleRun(
        rule=rule,
        updates=updates,
        max_vio=violations,
        offset=offsets,
        settled=updates[settled] if settled < len(updates) else None,
        final=sum(late) / len(late),
        spread=float(bias.std(correction=0)),
        law=compare(bias, law),
        own=None if chooser.bias is None else compare(bias, chooser.bias).correlation,
    )


def _load(ranked: Tensor, bias: Tensor | None, chooser: Chooser, k: int) -> Tensor:
    """Assignments [E] in float64."""
    experts = choose(selection_scores(ranked, bias, chooser.groups), k)
    return torch.bincount(experts.flatten(), minlength=ranked.shape[1]).double()


def _max_vio(load: Tensor) -> float:
    return float(max_vio(load.numpy()))


def _batches(rows: int, plan: Plan, seed: int) -> Tensor:
    """Rows of every batch, [updates, batch]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, rows, (plan.updates, min(plan.batch, rows)), generator=generator)
