"""MP701 low-precision-routing: 16-bit arithmetic changes which experts are chosen.

## What it finds

A gate that was rounded to 4 bits or so once, whatever dtype holds it now; and a router that computes its
logits, scores or choice in 16 bits and thereby sends a share of the tokens to other experts than float32 would.

## Why it matters

Training and serving in different precision disagree on the experts, which reinforcement learning on top of a
served model feels first. Moving the router to float32 has gained up to 12 points on long tasks; on average loss
the effect is small.

## How it is measured

From the weights: how many of 16 neighbouring entries of the gate are distinct, which is few where all of them
are multiples of one step. From the probe: the logits are recomputed in float32 from the recorded input of the
router and the rule is applied to them; the share of tokens whose set of experts differs from the executed one
is compared with two bars. It applies where the product, the score function or the selection was seen to run in
16 bits.

## Limits

- `distinct_share` (0.77): share of distinct values among 16 neighbouring entries of the gate, zeros left out, below
  which it was rounded to a few levels. It is 0.99 in bfloat16, 0.8 to 0.94 in 8 bits and 0.4 to 0.73 in 4 bits. Where
  the file itself stores codes, this is an info.
- `flips_info` (0.02): share of changed sets from which it is mentioned; 2.6 to 7 % is common in bfloat16.
- `flips_warning` (0.15): share that is a warning; two healthy engines disagree on 10 to 12 %.
- `min_tokens` (1000): tokens before the share is judged.

## Known false alarms

A selection bias with a large common offset, or scores that hardly differ, raise the share as well; then
bias-runaway or flat-scores is the cause and is named. Logits that are not the product of gate and input cannot
be recomputed; only what comes after them is compared then.

## What to do

Run the router in float32: cast its input and weight, and take the bias in float32 from the original file.

## References

vllm pull request 14027 (+0.16 on Winogrande); sglang issue 38695; arXiv 2510.11370 (routing differs between
engines).
"""

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.precision import is_16bit
from moeprobe.detectors.wording import percent
from moeprobe.findings.evidence import Evidence

ROUNDING = "the router computes in 16 bits"
FEW_LEVELS = "the gate was rounded to a few levels"

_REMEDY = "Run the router in float32 (its input, weight and bias)"


class LowPrecisionLimits(Limits):
    """Bars of low-precision-routing."""

    flips_info: float = Field(0.02, gt=0, le=1, description="Changed sets; 2.6 to 7 % is common in bfloat16")
    distinct_share: float = Field(0.77, gt=0, le=1, description="Distinct of 16 neighbours; 4 bits have 0.4-0.7")
    flips_warning: float = Field(0.15, gt=0, le=1, description="Changed sets; two healthy engines differ by 10-12 %")
    min_tokens: int = Field(1000, ge=1, description="Tokens before the share is judged")


class LowPrecision(Detector[LowPrecisionLimits]):
    """16-bit arithmetic changes which experts are chosen."""

    name = "low-precision-routing"
    code = "MP701"
    Limits = LowPrecisionLimits

    def judge(self, evidence: Evidence, limits: LowPrecisionLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            _judge(case)
        return Judgement.of(cases)


def _judge(case: Case[LowPrecisionLimits]) -> None:
    router, limits = case.evidence.router, case.limits
    _judge_levels(case)
    if router.kind == "hash":
        case.skip("a hash table chooses here, not the scores")
        return
    if not case.chooses():
        return
    shown = case.activations()
    if shown is None:
        return
    arithmetic = router.arithmetic
    parts = {} if arithmetic is None else arithmetic.model_dump(include={"product", "score", "selection"})
    short = [name for name, dtype in parts.items() if is_16bit(dtype)]
    if not any(parts.values()):
        case.skip("in which arithmetic the router runs was not seen")
    elif not short:
        case.skip("the router computes in float32")
    elif shown.selection is None:
        case.skip("the selection was not recomputed")
    elif case.enough_tokens(shown.tokens, limits.min_tokens):
        if case.evidence.weights is None:
            case.note("the logits are not the product of gate and input and were not recomputed")
        share = shown.selection.flips_float32
        if share < limits.flips_info:
            return
        high = share >= limits.flips_warning
        bar = limits.flips_warning if high else limits.flips_info
        case.find(
            "warning" if high else "info",
            f"{percent(share)} of the tokens would go to other experts in float32 ({' and '.join(short)} run in "
            f"{parts[short[0]]}; the limit is {percent(bar)})",
            quantity="share of sets that float32 changes",
            measured=share,
            limit="flips_warning" if high else "flips_info",
            cause=ROUNDING,
            remedy=_REMEDY,
        )


def _judge_levels(case: Case[LowPrecisionLimits]) -> None:
    weights, limits = case.evidence.weights, case.limits
    if weights is None or weights.distinct is None:
        return
    case.weigh()
    # Equal rows and columns repeat values as well; they are a fault of another kind.
    if weights.distinct < limits.distinct_share and not weights.identical_rows:
        # Stored in codes by a quantiser that says so is a choice; numbers that were rounded before are nobody's.
        case.find(
            "warning" if case.evidence.router.stored is None else "info",
            f"of 16 neighbouring entries of the gate matrix only {percent(weights.distinct)} are distinct (the limit "
            f"is {percent(limits.distinct_share)}), so it was rounded to a few levels, as 4 bits do, and is held in "
            f"{weights.dtype}",
            quantity="share of distinct values among neighbours",
            measured=weights.distinct,
            limit="distinct_share",
            cause=FEW_LEVELS,
            remedy="Take the gate from the base checkpoint, and leave it out of the quantisation",
        )
