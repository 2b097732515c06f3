"""MP705 untrained-gate: the gate matrix is that of a random initialisation.

## What it finds

A learned gate that looks like a matrix of independent random entries, has no relation to the experts that it
chooses, and whose choice is worth no more than a random one: it was never trained, or it was initialised again.

## Why it matters

Merges and conversions fill a missing gate with random numbers. Its logits have the usual spread and every load
metric may look fair, but tokens go to experts that never learned from them.

## How it is measured

Three things must agree.

The matrix looks random: the variation of the row norms, the largest singular value, the cosines between rows
and the tails of the entries all lie within `sigmas` standard errors of what independent Gaussian, uniform or
truncated entries give (chi-squared, Tracy-Widom and their like, so the bar holds for every size).

The rows do not belong to their experts: training ties an expert's input matrices to its own gate row. The
answers of all experts to all rows are compared, own against foreign; for an unrelated gate the result is
standard normal whatever the experts look like, because then any pairing is as good as the true one. No other order
of the rows restores the tie (see permuted-experts).

The loss test of the choice calls it worthless (see permuted-experts). Sound gates that look random and have no
visible tie exist, in small and briefly trained models above all; so without the loss test, or where it does not
decide, neither does this detector.

## Limits

- `sigmas` (4): largest departure from a random matrix. 2,520 random gates of 4 to 256 rows and
  64 to 4096 columns stayed below 3.7 (measured).
- `coupling` (3): own against foreign rows in standard errors. Of 2,800 unrelated gates 0.3 % lay above, none above 3.9.
  Layers of small models that were trained for 1,000 steps and more have 3.3 to 33; after 150 steps half of them lie
  below 3 (`benchmarks/ties.py`).
- `min_entries` (256): entries of the gate below which nothing can be told.
- `min_documents` (8), `min_sources` (3), `largest_effect` (0.1), `least_stir` (0.05): as in permuted-experts, for the
  loss test.

## Known false alarms

Gates that are frozen at random values on purpose are reported if their choice is worth nothing. A gate whose rows
stand in another order than its experts may look random as well where the matrix is small; it is reported here only
if no order restores its tie.

## What to do

Compare the gate with the base checkpoint and restore it. See permuted-experts for the test by loss.

## References

mergekit (moe/router.py initialises missing gates at random); Johnstone 2001 for the largest singular value.
"""

from pydantic import Field

from moeprobe.detectors.case import Case
from moeprobe.detectors.choice_worth import ChoiceLimits, choice_worth, why_not_tested
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.randomness import distance
from moeprobe.detectors.row_order import RowOrderLimits, is_permuted
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import ChoiceTest, Evidence, Experiments

RANDOM = "the gate is a random matrix"

_LEAST_ROWS = 3
"""Below this a gate has no shape (``routers.gate_shape``)."""


class UntrainedGateLimits(ChoiceLimits):
    """Bars of untrained-gate."""

    sigmas: float = Field(4, gt=0, description="Departure from a random matrix in standard errors")
    coupling: float = Field(3, gt=0, description="Tie of rows to experts; unrelated 0 +- 1, trained mostly above 3")
    min_entries: int = Field(256, ge=1, description="Entries of the gate below which nothing can be told")


class UntrainedGate(Detector[UntrainedGateLimits]):
    """The gate matrix is that of a random initialisation."""

    name = "untrained-gate"
    code = "MP705"
    Limits = UntrainedGateLimits

    def judge(self, evidence: Evidence, limits: UntrainedGateLimits) -> Judgement:
        """One check per router."""
        experiments = evidence.experiments or Experiments()
        tests = {test.router: test for test in experiments.choice}
        cases = self.open(evidence, limits)
        for case in cases:
            looks = _looks_untrained(case)
            if looks is not None:
                _judge_choice(case, looks, tests.get(case.evidence.router.path), experiments)
        return Judgement.of(cases)


def _why_no_shape(case: Case[UntrainedGateLimits]) -> str:
    router, weights = case.evidence.router, case.evidence.weights
    if weights is not None and router.experts < _LEAST_ROWS:
        return f"the gate is too small to tell: {router.experts} x {router.hidden_size}"
    return "the gate's weights were not read, or are zero or not finite"


def _looks_untrained(case: Case[UntrainedGateLimits]) -> tuple[float, float] | None:
    """Departure from a random matrix and tie, where the weights speak for an untrained gate; else None, and why."""
    seen, limits = case.evidence, case.limits
    shape = seen.weights.shape if seen.weights else None
    if seen.router.kind == "hash":
        # Such a gate only weighs, and the tie to its experts is too weak to be seen in trained models.
        case.skip("a hash table chooses here, not the gate")
        return None
    if shape is None:
        case.skip(_why_no_shape(case))
        return None
    if shape.rows * shape.columns < limits.min_entries:
        case.skip(f"the gate is too small to tell: {shape.rows} x {shape.columns}")
        return None
    farthest, name = distance(shape)
    if farthest >= limits.sigmas:
        case.note(f"the {name} is {number(farthest)} standard errors off a random matrix")
        return None
    coupling = seen.experts.coupling if seen.experts else None
    if coupling is None:
        why = (seen.experts.reason or seen.experts.untied) if seen.experts else ""
        case.skip(f"the gate looks random, but its tie to the experts is not known{f': {why}' if why else ''}")
        return None
    if coupling >= limits.coupling:
        case.note(f"rows and experts belong together ({number(coupling)} standard errors)")
        return None
    tie = seen.experts.tie if seen.experts else None
    foreign = seen.experts.foreign if seen.experts else None
    if tie is not None and is_permuted(tie, RowOrderLimits()):
        case.note("its rows have a tie to the experts in another order (see permuted-experts)")
        return None
    if foreign is not None and foreign.value >= RowOrderLimits().least_foreign:
        case.note("its experts have a tie to another layer's gate (see permuted-experts)")
        return None
    return farthest, coupling


def _judge_choice(
    case: Case[UntrainedGateLimits], looks: tuple[float, float], test: ChoiceTest | None, experiments: Experiments
) -> None:
    farthest, coupling = looks
    weights = (
        f"the gate looks like random numbers (at most {number(farthest)} standard errors off) and its rows have no "
        f"tie to their experts ({number(coupling)} standard errors; the limit is {number(case.limits.coupling)})"
    )
    if test is None:
        case.skip(f"not decided: {weights}, which sound gates show as well, and {_lacking(experiments)}")
        return
    worth = choice_worth(test, case.limits)
    if worth.verdict == "worth":
        case.note(f"{weights}, but its choice is worth something: {worth.says}")
    elif worth.verdict == "worthless":
        case.find(
            "warning",
            f"{weights}, and {worth.says}, so its choice is worth no more than a random one: it was never trained or "
            "was redrawn, or, since small trained gates look random as well, stands in another order or another place",
            quantity="tie between gate rows and experts",
            measured=coupling,
            limit="coupling",
            cause=RANDOM,
            remedy="Compare the gate with the base checkpoint and restore it",
        )
    else:
        case.skip(f"not decided: {weights}, and the loss test does not tell: {worth.says}")


def _lacking(experiments: Experiments) -> str:
    """Why there is no loss test, as the end of a sentence."""
    why = why_not_tested(experiments)
    return "only the loss test of the choice could tell" if why.startswith("needs") else f"nothing else tells: {why}"
