"""MP704 duplicate-experts: experts, or rows of a gate, that are the same.

## What it finds

Experts of one layer whose weights are equal bit for bit or nearly so, and gate rows that nearly coincide. Rows
that coincide exactly are found by flat-scores.

## Why it matters

Equal experts compute the same thing: parameters are spent twice and the routing between them means nothing.
They are left behind by upcycling a dense model, by merging, and by conversions that write one expert into
several places.

## How it is measured

From the weights alone. The cosine between every two experts is taken over a sample of 262,144 entries spread
evenly over all their tensors (all of them where there are fewer); pairs that the sample cannot tell apart are
compared bit by bit. Gate rows are compared after the mean row is taken off, which prefers nobody.

## Limits

- `cosine_warning` (0.999): cosine between two experts, or two gate rows; independent experts have about 0.

## Known false alarms

A model that was upcycled a moment ago has equal experts on purpose; training separates them. Experts that are
stored quantised, or not laid out one by one, are not compared, and the check says so.

## What to do

Compare the experts' tensors with the base checkpoint: if they differ there, the conversion or merge is wrong.

## References

Sparse Upcycling (arXiv 2212.05055).
"""

from collections.abc import Sequence

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.wording import listed
from moeprobe.findings.evidence import Evidence

IDENTICAL = "experts are identical"
SIMILAR = "experts are nearly identical"
SIMILAR_ROWS = "gate rows are nearly identical"

_REMEDY = "Compare the experts and the gate with the base checkpoint; a merge, conversion or upcycling copies them"


class DuplicateExpertsLimits(Limits):
    """Bars of duplicate-experts."""

    cosine_warning: float = Field(0.999, gt=0, lt=1, description="Cosine of two experts or rows; independent is 0")


class DuplicateExperts(Detector[DuplicateExpertsLimits]):
    """Experts, or rows of a gate, that are the same."""

    name = "duplicate-experts"
    code = "MP704"
    Limits = DuplicateExpertsLimits

    def judge(self, evidence: Evidence, limits: DuplicateExpertsLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            equal = _judge_experts(case)
            if case.evidence.router.score_columns > 1:
                _judge_rows(case, equal)
        return Judgement.of(cases)


def _judge_experts(case: Case[DuplicateExpertsLimits]) -> set[int]:
    """The experts that were found to be copies."""
    experts = case.evidence.experts
    if case.evidence.router.experts == 1:
        case.skip("there is a single expert, and no other to compare it with")
        return set()
    if experts is None or experts.reason:
        case.skip(experts.reason if experts else "the experts' weights were not read")
        return set()
    copies = sorted(expert for group in experts.identical for expert in group)
    everybody = len(copies) == case.evidence.router.experts and len(experts.identical) == 1
    if copies:
        groups = ["all experts"] if everybody else [listed(group, "expert") for group in experts.identical[:4]]
        more = "" if len(experts.identical) <= 4 else f" and {len(experts.identical) - 4} more groups"
        case.find(
            "error",
            f"the weights of {'; of '.join(groups)}{more} are identical",
            quantity="identical experts",
            measured=len(copies),
            cause=IDENTICAL,
            remedy=_REMEDY,
            experts=[] if everybody else copies,
        )
    similar = _above(experts.cosine, case.limits.cosine_warning, set(copies))
    if similar:
        highest = max(experts.cosine[expert] for expert in similar)
        _find_similar(case, SIMILAR, "the weights", similar, highest)
    return {*copies, *similar}


def _judge_rows(case: Case[DuplicateExpertsLimits], equal: set[int]) -> None:
    weights = case.evidence.weights
    if weights is None or weights.row_cosine is None:
        case.note("the gate's rows were not compared")
        return
    case.weigh()
    exact = {row for pair in weights.identical_rows for row in pair}
    similar = _above(weights.row_cosine, case.limits.cosine_warning, equal | exact)
    if len(similar) > 1:
        highest = max(weights.row_cosine[row] for row in similar)
        _find_similar(case, SIMILAR_ROWS, "the gate rows", similar, highest)


def _above(cosine: Sequence[float], limit: float, but: set[int]) -> list[int]:
    return [index for index, value in enumerate(cosine) if value >= limit and index not in but]


def _find_similar(
    case: Case[DuplicateExpertsLimits], cause: str, what: str, experts: list[int], highest: float
) -> None:
    case.find(
        "warning",
        f"{what} of {listed(experts, 'expert')} are nearly those of another (cosine up to {highest:.6f}, the limit is "
        f"{case.limits.cosine_warning:g})",
        quantity="largest cosine",
        measured=highest,
        limit="cosine_warning",
        cause=cause,
        remedy=_REMEDY,
        experts=experts,
    )
