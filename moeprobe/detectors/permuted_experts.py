"""MP703 permuted-experts: the learned choice of a layer is worth no more than a random one.

## What it finds

A gate whose rows no longer stand in the order of its experts (shuffled by a conversion or by sharding), a
gate that belongs to another layer or checkpoint, and a hash table whose rows were mixed up.

## Why it matters

Every number of such a router looks healthy: logits, margins, weights, even the load may be as balanced as
before. Only the tokens reach experts that never learned them. In small models it cost 0.02 to 1.3 nats a
token for a single layer.

## How it is measured

In one layer at a time the experts of every token are replaced by k distinct random ones, while the weights
stay in their slots; padding keeps its choice. The loss of every document is compared with that under the
learned choice. Where the choice matters the loss rises; where gate and experts do not belong together it does
not. The interval of the rise is 99 % by Student's t over documents. A rise whose interval lies above zero
clears the layer. Otherwise the rise is divided by the *stir*, the root mean square of what the random choice
does to the loss of a single token: the choice is called worthless only if even the upper end of that effect
is small. If it is not, too few tokens were read to decide; and if a random choice hardly stirs the loss at
all, any expert does (redundant experts, a layer of little weight), which is an info.

A shuffled gate is still a fixed choice, and by luck one can beat random experts, most often in a first layer
with few experts. So the share of the routed branch's worth that is lost with the choice, rise over the rise
without the branch, is mentioned where it is small.

Hash layers are tested like the others: nobody learned their table, but the experts learned from it.

## Limits

- `min_documents` (8), `min_sources` (3): what must be read before a layer is judged.
- `largest_effect` (0.1): upper end of rise over stir up to which the choice is called worthless.
- `least_stir` (0.05): nats by which random experts must stir the loss of a token, or any expert does.
- `least_share` (0.35): share of the branch's worth below which the choice is mentioned.

## Known false alarms

Not tried on a large published model: experts that were copied from one dense layer may do for each other so
well that even a sound choice gains little. The finding is a warning for that reason. Text foreign to the model
makes every choice less valuable. Each pass reads few tokens where a model has many layers; then layers stay
undecided rather than wrongly accused. Behind a fault in an earlier layer a sound choice may be worth nothing;
such findings follow the earlier one. Of 72 gates shuffled one at a time, 3 beat random experts by luck and were
missed.

## What to do

Compare the order of the gate's rows (and of its selection bias) and of the experts with the base checkpoint,
for instance by the cosine of each row with all rows there. Look for a conversion that sorted experts by name
(`10` before `2`), and for expert-parallel shards that were joined in another order.

## References

Megatron-LM, DeepSpeed pull request 8198 and MC-SMoE issue 2 touch the order of experts in sharded
checkpoints; no clean public case of a permuted gate was found.
"""

import math

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.wording import number, percent
from moeprobe.findings.evidence import ChoiceTest, Evidence, Experiments

WORTHLESS = "the choice is worth no more than a random one: gate and experts do not belong together"
LITTLE = "the choice makes a small part of what the routed branch is worth"
REDUNDANT = "any expert does: the layer hardly depends on the choice"

_ORDER = "Compare the order of this gate's rows and of its experts with the base checkpoint"


class PermutedExpertsLimits(Limits):
    """Bars of permuted-experts."""

    min_documents: int = Field(8, ge=2, description="Documents that the interval must rest on")
    min_sources: int = Field(3, ge=1, description="Sources of text that must be among them")
    largest_effect: float = Field(0.1, gt=0, description="Upper end of rise over stir; sound layers show 0.07 to 0.5")
    least_stir: float = Field(0.05, ge=0, description="Nats; two inference engines differ by about 0.045 (KL 0.001)")
    least_share: float = Field(0.35, ge=0, description="Share of the branch's worth; sound layers show 0.5 to 1.2")


class PermutedExperts(Detector[PermutedExpertsLimits]):
    """The learned choice of a layer is worth no more than a random one."""

    name = "permuted-experts"
    code = "MP703"
    Limits = PermutedExpertsLimits

    def judge(self, evidence: Evidence, limits: PermutedExpertsLimits) -> Judgement:
        """One check per router."""
        experiments = evidence.experiments or Experiments()
        tests = {test.router: test for test in experiments.choice}
        cases = self.open(evidence, limits)
        for case in cases:
            if case.activations() is None:
                continue
            test, router = tests.get(case.evidence.router.path), case.evidence.router
            if router.top_k >= router.experts:
                _nobody_else(case)
            elif test is None:
                case.skip(_why_not(experiments))
            else:
                _judge_test(case, test)
        return Judgement.of(cases)


def _nobody_else(case: Case[PermutedExpertsLimits]) -> None:
    router = case.evidence.router
    if case.chooses():
        case.skip(f"{router.top_k} of {router.experts} experts are chosen, so there are no others to draw at random")


def _why_not(experiments: Experiments) -> str:
    if experiments.loss is not None and not math.isfinite(experiments.loss):
        return "the loss of the probe is not finite"
    if experiments.choice:
        return "its experts module takes no choice that could be replaced"
    return "needs the loss test of the choice"


def _judge_test(case: Case[PermutedExpertsLimits], test: ChoiceTest) -> None:
    limits = case.limits
    if test.documents < limits.min_documents:
        case.skip(f"too few documents: {test.documents} of {limits.min_documents}")
        return
    if test.sources < limits.min_sources:
        case.skip(f"too few sources: {test.sources} of {limits.min_sources}")
        return
    low, high = test.rise.low, test.rise.high
    if low is None or high is None or not math.isfinite(high - low) or not math.isfinite(test.stir):
        case.skip("not decided: the loss with random experts is not finite")
        return
    rise = f"random experts change the loss by {test.rise.value:+.3g} nats per token ({low:+.3g} to {high:+.3g})"
    if low > 0:
        case.note(rise)
        _mention_share(case, test)
    elif test.stir < limits.least_stir:
        case.find(
            "info",
            f"{rise} and that of a single token by no more than {number(test.stir)}",
            quantity="stir of the loss",
            measured=test.stir,
            limit="least_stir",
            cause=REDUNDANT,
            remedy="Nothing, unless the base checkpoint shows a larger rise",
        )
    elif high > limits.largest_effect * test.stir:
        case.skip(f"not decided, too few tokens: {rise}")
    else:
        case.find(
            "warning",
            f"{rise}: its choice is worth no more than a random one",
            quantity="rise over stir, upper end",
            measured=high / test.stir,
            limit="largest_effect",
            cause=WORTHLESS,
            remedy=_ORDER,
        )


def _mention_share(case: Case[PermutedExpertsLimits], test: ChoiceTest) -> None:
    if test.share is None or test.share.high is None or test.share.high >= case.limits.least_share:
        return
    case.find(
        "info",
        f"its choice makes {percent(test.share.value)} of what the routed branch is worth (at most "
        f"{percent(test.share.high)}): the experts can stand in for each other, or a shuffled gate was lucky",
        quantity="share of the branch's worth, upper end",
        measured=test.share.high,
        limit="least_share",
        cause=LITTLE,
        remedy=_ORDER,
    )
