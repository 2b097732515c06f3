"""MP201 bias-runaway: the selection bias decides instead of the token.

## What it finds

A selection bias (the `e_score_correction_bias` of routers that balance without an auxiliary loss) that is
not finite or absurd, was rounded to 16 bits, was lost, or is so uneven that it settles the choice for every token.

## Why it matters

The bias is meant to nudge loads. When it outweighs the scores, tokens no longer reach the experts that
were trained on them; when it is lost or rounded, the balance that the model was trained with is gone. The
loss hardly shows either: in a small model a lost bias cost 0.04 nats and a runaway expert 0.016.

## How it is measured

Only differences between biases count: the top-k does not see a common offset, which is large in healthy models
(about 5 in DeepSeek-V3, 10 to 34 in GLM-5.1). From the weights: non-finite values; the rounding step of a
16-bit dtype at the quartiles of the bias against their distance; a constant bias; and two exact certificates.
With scores between 0 and 1, an expert can never be chosen if k others have a bias larger by more than 1, and
always is if fewer than k others come within 1 of it; where only the best groups are eligible, which groups can
be kept, and what masked experts count as (minus infinity, or 0, which beats a negative score), is gone through
as well. Where only the weights were read, the rule is the declared one: a certificate must hold however groups
may be ranked and masked, and is a warning where no score function is declared. Square-root-softplus scores are
bounded by what the weights can reach, else by what the probe showed. From the probe: the share of tokens whose
experts are the top-k of the bias alone, and the imbalance with the bias against that without it; and the
correlation of the bias with minus the quantile of each expert's own score at 1 - k/E, where balancing by the
sign rule ends, judged over all layers. The load must agree with a certificate, otherwise the check has failed.

## Limits

- `bias_only_error` (0.9), `bias_only_warning` (0.5): share of tokens whose experts the bias alone gives.
- `rounding_share` (0.25): rounding step over the interquartile range of a 16-bit bias; below it, a float32 bias that
  was rounded while loading is an info.
- `imbalance_ratio` (1.5): MaxVio with the bias over MaxVio without it, if their intervals are disjoint.
- `offset_ratio` (3): common offset over interquartile range from which the offset is mentioned (info; a
  warning where the bias is held or used in 16 bits).
- `spread_error` (10000): difference between biases that no update rule (steps of 0.001) reaches.
- `law_sigmas` (2.576): standard errors of that correlation (Fisher's z over the experts, 99 %). Wholly below zero, as
  after a flip of sign, it is a warning. With zero inside, as after a permutation, it is one where all such layers
  together can hardly be healthy, else only an info; and an error where the bias follows the law of another layer.
- `law_healthy` (0.6): least correlation of a healthy bias: those of the trained checkpoints have 0.76 to 0.98, permuted
  ones up to 0.52. How far a healthy layer may fall below it follows from the number of experts and layers.
- `law_freedom` (24): experts, less three in each layer, before low correlations are more than an info: two layers of
  16 experts, or five of 8. With fewer, Fisher's z is too rough.
- `min_tokens` (1000): tokens before activations are judged.
- `min_sources` (5): sources of text before the imbalance is judged, since one domain is uneven by nature.

## Known false alarms

A model that never trained its bias (a fresh initialisation, or a family where the bias is optional) has a
constant one. Text that is foreign to the model can make the trained bias look harmful, which is why the
imbalance is never an error, and unrelated: with every letter a capital the correlations of the trained checkpoints
fell to between -0.17 and 0.43 (a warning for one of two), with the texts reversed or their letters shuffled not
below 0.49. Zero and skip experts are biased by design and are exempt.

## What to do

Restore the bias from the base checkpoint in float32; upcasting a rounded bias restores nothing. A lost
bias can be recalibrated without gradients on a balanced mixture, b += u * (sign(mean load - load) - its
mean) with a falling u. Do not clamp it to a fixed range: that destroys healthy models with an offset.

## References

Loss-free balancing (arXiv 2408.15664); DeepSeek-V3 (arXiv 2412.19437); transformers pull request 42580
(bias cast to bfloat16); Megatron-Bridge issue 4199 (bias lost in conversion).
"""

import math

from pydantic import Field

from moeprobe.detectors.bias_balance import judge_imbalance
from moeprobe.detectors.bias_certificates import Settled, contradicted, left_out_groups_win, settle
from moeprobe.detectors.bias_law import judge_laws
from moeprobe.detectors.bias_reach import find_beyond
from moeprobe.detectors.bias_rounding import (
    LOADED_ROUNDED,
    OFFSET,
    OFFSET_16BIT,
    RESTORE,
    ROUNDED_ON_LOAD,
    STORED_ROUNDED,
    judge_rounding,
)
from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.evidence import Activations, Evidence, RouterEvidence
from moeprobe.findings.finding import Severity
from moeprobe.findings.router import Bias

__all__ = [
    "LOADED_ROUNDED",
    "OFFSET",
    "OFFSET_16BIT",
    "ROUNDED_ON_LOAD",
    "STORED_ROUNDED",
    "BiasRunaway",
    "BiasRunawayLimits",
]

NONFINITE = "the selection bias is not finite"
CONSTANT = "the selection bias was lost"
CONSTANT_HERE = "the selection bias was lost in this layer"
SETTLED = "the selection bias outweighs any score"
SETTLED_ON_PROBE = "the selection bias outweighs every score seen"
DECIDES = "the selection bias decides instead of the token"
LEFT_OUT_WIN = "groups that were left out outscore the kept ones"
CERTAIN = (SETTLED, SETTLED_ON_PROBE)
NEVER, ALWAYS = "(never chosen)", "(always chosen)"

_CLAMP = f"{RESTORE}; if training lost it, clamp these biases to the range of the others and recalibrate"


class BiasRunawayLimits(Limits):
    """Bars of bias-runaway."""

    bias_only_error: float = Field(0.9, gt=0, le=1, description="Share of tokens whose experts the bias alone gives")
    bias_only_warning: float = Field(0.5, gt=0, le=1, description="The same, as a warning; healthy is 0 to 0.011")
    rounding_share: float = Field(0.25, gt=0, description="Rounding step over interquartile range of a 16-bit bias")
    imbalance_ratio: float = Field(1.5, ge=1, description="MaxVio with over without the bias, intervals disjoint")
    offset_ratio: float = Field(3, gt=0, description="Offset over interquartile range from which it is mentioned")
    spread_error: float = Field(1e4, gt=0, description="Spread of the bias; steps of 0.001 would take 10 million")
    law_sigmas: float = Field(2.576, gt=0, description="Standard errors of the correlation with the balance law")
    law_healthy: float = Field(0.6, gt=0, lt=1, description="Least correlation of a healthy bias; trained have 0.76 up")
    law_freedom: int = Field(24, ge=1, description="Experts, less three a layer, that correlations are judged low by")
    min_tokens: int = Field(1000, ge=1, description="Tokens before activations are judged")
    min_sources: int = Field(5, ge=1, description="Sources of text before the imbalance is judged")


class BiasRunaway(Detector[BiasRunawayLimits]):
    """The selection bias decides instead of the token."""

    name = "bias-runaway"
    code = "MP201"
    Limits = BiasRunawayLimits

    def judge(self, evidence: Evidence, limits: BiasRunawayLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        biases = [_routed_bias(router) for router in evidence.routers]
        lost_everywhere = all(len(set(bias.values)) == 1 for bias in biases if bias and bias.values[1:])
        balancing: list[tuple[Case[BiasRunawayLimits], Activations]] = []
        for case, bias in zip(cases, biases, strict=True):
            if case.evidence.router.kind == "hash":
                case.skip("a hash table chooses here, without a bias")
            elif bias is None:
                case.skip("no selection bias")
            elif bad := [e for e, value in enumerate(bias.values) if not math.isfinite(value)]:
                _find_nonfinite(case, bad)
            elif case.chooses() and len(set(bias.values)) == 1:
                _find_lost(case, bias, lost_everywhere)
            elif case.chooses() and not find_beyond(case, bias):
                case.weigh()
                judge_rounding(case, bias)
                _judge_groups(case, bias)
                settled = _judge_certificates(case)
                if shown := case.activations():
                    _judge_share(case, shown, settled)
                    judge_imbalance(case, shown)
                    balancing.append((case, shown))
        judge_laws(balancing)
        return Judgement.of(cases)


def _routed_bias(evidence: RouterEvidence) -> Bias | None:
    """Return the bias of a router that is meant to have one (a config may switch it off and leave the tensor).

    The columns of zero and skip experts, which families set apart by design, are left out.
    """
    router = evidence.router
    if router.selection_bias is None or router.declared.selection_bias is False or router.kind == "hash":
        return None
    return router.selection_bias.model_copy(update={"values": router.selection_bias.values[: router.experts]})


def _find_nonfinite(case: Case[BiasRunawayLimits], bad: list[int]) -> None:
    case.find(
        "error",
        f"the selection bias of {listed(bad, 'expert')} is NaN or infinite",
        quantity="non-finite biases",
        measured=len(bad),
        cause=NONFINITE,
        remedy=RESTORE,
        experts=bad,
    )


def _find_lost(case: Case[BiasRunawayLimits], bias: Bias, everywhere: bool) -> None:
    what = "all zero" if bias.values[0] == 0 else f"the same for every expert ({number(bias.values[0])})"
    where = "in every layer" if everywhere else "here, though not in the other layers"
    case.find(
        "error" if everywhere else "warning",
        f"the selection bias is {what} {where}, so it balances nothing",
        quantity="spread of the bias",
        measured=0.0,
        cause=CONSTANT if everywhere else CONSTANT_HERE,
        remedy=f"{RESTORE}; if the model never trained one, ignore this detector",
    )


def _judge_groups(case: Case[BiasRunawayLimits], bias: Bias) -> None:
    if left_out_groups_win(case.evidence):
        case.find(
            "error",
            f"every biased score is negative (largest bias {number(max(bias.values))}) while groups that are "
            "left out count as 0, so only their experts are ever chosen",
            quantity="largest bias",
            measured=max(bias.values),
            cause=LEFT_OUT_WIN,
            remedy="Mask the left-out groups with -inf instead of 0",
        )


def _judge_certificates(case: Case[BiasRunawayLimits]) -> Settled | None:
    settled = settle(case.evidence, case.limits.min_tokens)
    if settled is None:
        case.note("no bound on the scores is known, so the bias alone proves nothing")
        return None
    if wrong := contradicted(case.evidence, settled):
        case.fail(f"the load of {listed(wrong, 'expert')} contradicts the bias: the selection rule is not as read")
        return None
    experts = case.evidence.router.experts
    always = [e for e in settled.always if e < experts]
    never = [e for e in settled.never if e < experts]
    # Where the k favourites are all settled, nobody else being chosen is the same fact again.
    if len(settled.always) == case.evidence.router.top_k:
        never = []
    cause = SETTLED_ON_PROBE if settled.observed else SETTLED
    scores = "every score seen on the probe" if settled.observed else "any score that the router can give"
    if settled.assumed:
        scores = "any score between 0 and 1 (which scores it is added to was neither measured nor declared)"
    for who, fate in ((always, "always"), (never, "never")):
        if who:
            case.find(
                "warning" if settled.assumed else "error",
                f"the selection bias outweighs {scores}, so {listed(who, 'expert')} "
                f"{'is' if len(who) == 1 else 'are'} {fate} chosen",
                quantity=f"experts {fate} chosen",
                measured=len(who),
                cause=f"{cause} {ALWAYS if fate == 'always' else NEVER}",
                remedy=_CLAMP,
                experts=who,
            )
    if exempt := sorted(e for e in {*settled.always, *settled.never} if e >= experts):
        case.note(f"zero or skip columns settled by design: {listed(exempt, 'column')}")
    return settled


def _judge_share(case: Case[BiasRunawayLimits], shown: Activations, settled: Settled | None) -> None:
    router, limits = case.evidence.router, case.limits
    share = shown.selection.bias_only if shown.selection else None
    if not case.enough_tokens(shown.tokens, limits.min_tokens):
        return
    if share is None:
        case.skip("the selection by the bias alone was not recomputed")
        return
    already_said = settled is not None and bool(settled.always or settled.never)
    if share < limits.bias_only_warning or already_said or router.top_k >= router.score_columns:
        return
    severity: Severity = "error" if share >= limits.bias_only_error else "warning"
    bar = f"bias_only_{severity}"
    case.find(
        severity,
        f"{percent(share)} of the tokens go to the experts that the bias alone gives (the limit is "
        f"{percent(getattr(limits, bar))})",
        quantity="share decided by the bias alone",
        measured=share,
        limit=bar,
        cause=DECIDES,
        remedy=f"{RESTORE}; if the scores are flat, mend the gate first",
    )
