"""MP703 permuted-experts: gate rows and experts of a layer do not belong together.

## What it finds

A gate whose rows no longer stand in the order of its experts (shuffled by a conversion or by sharding, or of
which other experts were pruned than rows), a gate that belongs to another layer or checkpoint, and a hash table
whose rows were mixed up.

## Why it matters

Every number of such a router looks healthy: logits, margins, weights, even the load may be as balanced as
before. Only the tokens reach experts that never learned them. In small models it cost 0.02 to 1.3 nats a
token for a single layer.

## How it is measured

**By the weights alone**, layer by layer. Training ties an expert's input matrices to its own gate row: they
answer to it with more energy, and with another mean, than to the rows of others. Every expert is held against
every row. That gives the *tie* of the present order in standard errors (0 +- 1 for an unrelated gate, exactly, by
permutations), and the *assignment* of rows to experts that fits best. Chance has a best assignment, too, so
it counts only if it *leads* clearly over the best one that shares no pair with it. A layer is permuted if such an
assignment leads and the present order keeps little of its fit. A few rows are exchanged if the order is right
otherwise and they would fit each other's experts far better. Where no assignment leads, the other layers decide: a
layer without a tie, in a model whose other layers let expect one, has a gate that does not belong to its experts. Two
such layers of one size are held against each other's gates: if each has a tie to the other's, they were swapped.

**By the loss.** In one layer at a time the experts of every token are replaced by k distinct random ones, while the
weights stay in their slots; padding keeps its choice. The loss of every document is compared with that under the
learned choice. Where the choice matters the loss rises; where gate and experts do not belong together it does
not. The interval of the rise is 99 % by Student's t over documents. A rise whose interval lies above zero
clears the layer. Otherwise the rise is divided by the *stir*, the root mean square of what the random choice
does to the loss of a single token: the choice is called worthless only if even the upper end of that effect
is small. If it is not, too few tokens were read to decide; and if a random choice hardly stirs the loss at
all, any expert does (redundant experts, a layer of little weight), which is an info.

A shuffled gate is still a fixed choice, and by luck one can beat random experts, most often in a first layer
with few experts. So the share of the routed branch's worth that is lost with the choice, rise over the rise
without the branch, is mentioned where it is small.

**Both.** Where weights and loss agree the finding is an error; one alone is a warning. If they contradict each
other the finding says so, and a missing tie beside a choice that is worth something is an info: sound layers
without a tie exist. Hash layers are tested by the loss alone: nobody learned their table, but the experts learned
from it, and the tie to the gate, which only weighs, is too weak to be seen.

## Limits

What is said of the weights rests on `benchmarks/ties.py`, run on the five checkpoints of the repository and on states
of six models trained for it by `scripts/training/train_for_ties.py` (16 to 128 experts, 150 to 1,000 steps). Two of
these, of 32 and 128 experts, were kept for testing; of the sound states none was accused. Unrelated gates are random
ones and random mixtures of a gate's own rows, 2,800 in all, of which none was called permuted.

- `least_lead` (0.7) and `lead_of_few` (8), which is divided by the number of experts and added: the lead from which
  an assignment is more than chance, in standard deviations of the fit a row. Unrelated gates of 8, 16, 32 and 64
  experts reach 1.24, 1.05, 0.84 and 0.65; the limit is 1.7, 1.2, 0.95 and 0.82.
- `lead_where_tied` (0.3): what is added where the present order has a tie; sound layers keep 0.85 and more of
  the fit from there, and of weaker ones a layer of 16 experts kept 0.4.
- `most_kept` (0.7): share of the best assignment's fit that the present order has; 0 if all rows were moved, 0.5 if
  half of them were.
- `least_gain` (5): standard deviations by which exchanged rows must gain each. Sound layers whose order is clear
  show less than 3; others up to 10.8, so those are not asked.
- `sure_gap` (3): how far a pair of row and expert stands above all its rivals where the expert is named; in
  layers that were found permuted, 80 to 100 % of such pairs were right.
- `untied` (2.5): standard errors up to which a layer counts as without a tie; unrelated gates have 0 +- 1, with 0.8 %
  of them above.
- `least_expected` (3): what the other layers must let expect at least, which is the mean of the logarithm of
  their ties less three standard deviations (of 0.2 at least, of 0.5 where there are but two). Layers differ: a sound
  one had -0.8 beside 12.8, 5.5 and 2.8, which let expect 0.6. No other of 74 sound layers lay below what the
  rest let expect.
- `least_layers` (2), `most_untied` (0.34): other layers with a tie that there must be, and the share of layers
  without one beyond which none is expected: briefly trained models have many.
- `least_foreign` (4): standard errors of a tie to another layer's gate; unrelated gates reach 3.9.
- `random_sigmas` (4): departure from a random matrix below which the finding mentions that the gate looks like one.
- `min_documents` (8), `min_sources` (3): what must be read before a layer is judged by the loss.
- `largest_effect` (0.1): upper end of rise over stir up to which the choice is called worthless.
- `least_stir` (0.05): nats by which random experts must stir the loss of a token, or any expert does.
- `least_share` (0.35): share of the branch's worth below which the choice is mentioned.

## Known false alarms

Not tried on a large published model: experts that were copied from one dense layer may do for each other so
well that even a sound choice gains little. The finding is a warning for that reason. Text foreign to the model
makes every choice less valuable. Each pass reads few tokens where a model has many layers; then layers stay
undecided rather than wrongly accused. Behind a fault in an earlier layer a sound choice may be worth nothing;
such findings follow the earlier one, unless the loss clears a layer in between (of neighbours, the next one) and the
weights do not say that rows and experts belong together. Of 72 gates shuffled one at a time, 3 beat random experts by
luck and were missed by the loss.

The weights miss what is weakly tied: two exchanged rows are seen only where the order is clear (0 to 70 % of planted
pairs there, and none elsewhere), half of the rows mostly where the tie exceeds 20 standard errors with 64 experts and
10 with 16, and after short training the loss decides alone.

## What to do

Compare the order of the gate's rows (and of its selection bias) and of the experts with the base checkpoint,
for instance by the cosine of each row with all rows there. Look for a conversion that sorted experts by name
(`10` before `2`), for expert-parallel shards that were joined in another order, and for pruning that kept other
rows than experts.

## References

Megatron-LM, DeepSpeed pull request 8198 and MC-SMoE issue 2 touch the order of experts in sharded
checkpoints; no clean public case of a permuted gate was found. Hoeffding 1951 for the law of the trace.
"""

from typing import Literal

from pydantic import Field

from moeprobe.detectors.case import Case
from moeprobe.detectors.choice_worth import ChoiceLimits, Worth, choice_worth, why_not_tested
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.row_order import RowOrder, RowOrderLimits, row_orders
from moeprobe.detectors.wording import number, percent
from moeprobe.findings.evidence import ChoiceTest, Evidence, Experiments

WORTHLESS = "the choice is worth no more than a random one: gate and experts do not belong together"
LITTLE = "the choice makes a small part of what the routed branch is worth"
REDUNDANT = "any expert does: the layer hardly depends on the choice"
PERMUTED = "the gate's rows stand in another order than the experts"
EXCHANGED = "single gate rows are exchanged"
SWAPPED = "the gate is that of another layer"
UNTIED = "gate and experts do not belong together: they have no tie, which the other layers have"
BY_WEIGHTS = (PERMUTED, EXCHANGED, SWAPPED, UNTIED)
"""Causes that the weights show, whatever the layers before do."""

_ORDER = "Compare the order of this gate's rows and of its experts with the base checkpoint"
_CAUSE = {"permuted": PERMUTED, "exchanged": EXCHANGED, "swapped": SWAPPED, "untied": UNTIED}


class PermutedExpertsLimits(RowOrderLimits, ChoiceLimits):
    """Bars of permuted-experts."""

    least_share: float = Field(0.35, ge=0, description="Share of the branch's worth; sound layers show 0.5 to 1.2")


class PermutedExperts(Detector[PermutedExpertsLimits]):
    """Gate rows and experts of a layer do not belong together."""

    name = "permuted-experts"
    code = "MP703"
    Limits = PermutedExpertsLimits

    def judge(self, evidence: Evidence, limits: PermutedExpertsLimits) -> Judgement:
        """One check per router."""
        experiments = evidence.experiments or Experiments()
        tests = {test.router: test for test in experiments.choice}
        orders = row_orders(evidence.routers, limits)
        cases = self.open(evidence, limits)
        for case in cases:
            path = case.evidence.router.path
            order, test = orders.get(path), None
            if order is not None:
                case.weigh()
            if case.activations() is not None:
                test = tests.get(path)
                if case.evidence.router.top_k >= case.evidence.router.experts:
                    _nobody_else(case)
                elif test is None:
                    case.skip(why_not_tested(experiments))
            worth = None if test is None else choice_worth(test, limits)
            if order is not None and order.verdict != "tied":
                _judge_order(case, order, worth)
            elif test is not None and worth is not None:
                _judge_test(case, test, worth, order)
        return Judgement.of(cases)


def _nobody_else(case: Case[PermutedExpertsLimits]) -> None:
    router = case.evidence.router
    if case.chooses():
        case.skip(f"{router.top_k} of {router.experts} experts are chosen, so there are no others to draw at random")


def _judge_order(case: Case[PermutedExpertsLimits], order: RowOrder, worth: Worth | None) -> None:
    """What the weights say, and whether the loss agrees."""
    loss, severity = "", _severity(order, worth)
    if worth is None:
        loss = ""
    elif worth.verdict == "worthless":
        loss = f"; the loss agrees: {worth.says}"
    elif worth.verdict == "worth":
        partly = " as it may where only some rows are moved" if order.partial else ""
        loss = f"; the loss test does not confirm it{partly}: {worth.says}"
    else:
        loss = f"; the loss test does not decide it: {worth.says}"
    case.find(
        severity,
        f"{order.says}{loss}",
        quantity=order.quantity,
        measured=order.measured,
        limit=order.limit,
        cause=_CAUSE[order.verdict],
        remedy=order.remedy or _ORDER,
        experts=order.experts,
    )


def _severity(order: RowOrder, worth: Worth | None) -> Literal["error", "warning", "info"]:
    if worth is not None and worth.verdict == "worthless":
        return "error"
    # Sound layers without a tie exist; that the choice is worth something is the better evidence.
    return "info" if order.verdict == "untied" and worth is not None and worth.verdict == "worth" else "warning"


def _judge_test(case: Case[PermutedExpertsLimits], test: ChoiceTest, worth: Worth, order: RowOrder | None) -> None:
    if worth.verdict == "undecided":
        case.skip(worth.says)
    elif worth.verdict == "worth":
        case.note(worth.says)
        _mention_share(case, test)
    elif worth.verdict == "redundant":
        case.find(
            "info",
            f"{worth.says} and that of a single token by no more than {number(test.stir)}",
            quantity="stir of the loss",
            measured=test.stir,
            limit="least_stir",
            cause=REDUNDANT,
            remedy="Nothing, unless the base checkpoint shows a larger rise",
        )
    else:
        tied = f", although its rows and experts have a tie ({order.says})" if order is not None and order.says else ""
        case.find(
            "warning",
            f"{worth.says}: its choice is worth no more than a random one{tied}",
            quantity="rise over stir, upper end",
            measured=worth.effect,
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
