"""MP705 untrained-gate: the gate matrix is that of a random initialisation.

## What it finds

A learned gate that looks like a matrix of independent random entries and has no relation to the experts that it
chooses: it was never trained, or it was initialised again.

## Why it matters

Merges and conversions fill a missing gate with random numbers. Its logits have the usual spread and every load
metric may look fair, but tokens go to experts that never learned from them.

## How it is measured

From the weights alone, both of:

The matrix looks random: the variation of the row norms, the largest singular value, the cosines between rows
and the tails of the entries all lie within `sigmas` standard errors of what independent Gaussian, uniform or
truncated entries give (chi-squared, Tracy-Widom and their like, so the bar holds for every size).

The rows do not belong to their experts: training ties an expert's input matrices to its own gate row. The
answers of all experts to all rows are compared, own against foreign; for an unrelated gate the result is
standard normal whatever the experts look like, because then any pairing is as good as the true one.

## Limits

- `sigmas` (4): largest departure from a random matrix. 2,520 random gates of 4 to 256 rows and
  64 to 4096 columns stayed below 3.7 (measured).
- `coupling` (3): own against foreign rows in standard errors. Trained layers have 3.7 to 12 (measured on small
  models of five families), unrelated gates 0 with a standard deviation of 1.
- `min_entries` (256): entries of the gate below which nothing can be told.

## Known false alarms

A gate whose rows stand in another order than its experts is a trained matrix without a tie to them; where the
matrix is so small that it looks random as well, the two cannot be told apart. Gates that are frozen at random
values on purpose are reported. A large trained gate is expected to be far from random in its spectrum; that was
not measured, and the tie to the experts protects it.

## What to do

Compare the gate with the base checkpoint and restore it. See permuted-experts for the test by loss.

## References

mergekit (moe/router.py initialises missing gates at random); Johnstone 2001 for the largest singular value.
"""

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.randomness import distance
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Evidence

RANDOM = "the gate is a random matrix"

_LEAST_ROWS = 3
"""Below this a gate has no shape (``routers.gate_shape``)."""


class UntrainedGateLimits(Limits):
    """Bars of untrained-gate."""

    sigmas: float = Field(4, gt=0, description="Departure from a random matrix in standard errors")
    coupling: float = Field(3, gt=0, description="Tie of rows to experts; trained 3.7 to 12, unrelated 0 +- 1")
    min_entries: int = Field(256, ge=1, description="Entries of the gate below which nothing can be told")


class UntrainedGate(Detector[UntrainedGateLimits]):
    """The gate matrix is that of a random initialisation."""

    name = "untrained-gate"
    code = "MP705"
    Limits = UntrainedGateLimits

    def judge(self, evidence: Evidence, limits: UntrainedGateLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            _judge(case)
        return Judgement.of(cases)


def _why_no_shape(case: Case[UntrainedGateLimits]) -> str:
    router, weights = case.evidence.router, case.evidence.weights
    if weights is not None and router.experts < _LEAST_ROWS:
        return f"the gate is too small to tell: {router.experts} x {router.hidden_size}"
    return "the gate's weights were not read, or are zero or not finite"


def _judge(case: Case[UntrainedGateLimits]) -> None:
    seen, limits = case.evidence, case.limits
    shape = seen.weights.shape if seen.weights else None
    if seen.router.kind == "hash":
        # Such a gate only weighs, and the tie to its experts is too weak to be seen in trained models.
        case.skip("a hash table chooses here, not the gate")
        return
    if shape is None:
        case.skip(_why_no_shape(case))
        return
    if shape.rows * shape.columns < limits.min_entries:
        case.skip(f"the gate is too small to tell: {shape.rows} x {shape.columns}")
        return
    farthest, name = distance(shape)
    if farthest >= limits.sigmas:
        case.note(f"the {name} is {number(farthest)} standard errors off a random matrix")
        return
    coupling = seen.experts.coupling if seen.experts else None
    if coupling is None:
        why = seen.experts.reason if seen.experts else ""
        case.skip(f"the gate looks random, but its tie to the experts is not known{f': {why}' if why else ''}")
    elif coupling >= limits.coupling:
        case.note(f"rows and experts belong together ({number(coupling)} standard errors)")
    else:
        case.find(
            "warning",
            f"the gate looks like random numbers (at most {number(farthest)} standard errors off) and its rows have no "
            f"tie to their experts ({number(coupling)} standard errors; the limit is {number(limits.coupling)}): "
            "it was never trained, was redrawn, or stands in another order than the experts",
            quantity="tie between gate rows and experts",
            measured=coupling,
            limit="coupling",
            cause=RANDOM,
            remedy="Compare the gate with the base checkpoint and restore it",
        )
