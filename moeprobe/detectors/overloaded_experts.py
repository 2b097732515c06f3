"""MP602 overloaded-experts: experts that far more tokens of a mixture of texts use than their fair share.

## What it finds

Experts of which it is proved, at the number of tokens that were read, that their odds of being used by a token of a
mixture of several kinds of text are more than twelve times the fair ones, or that nearly every token uses them.

## Why it matters

An expert that everything passes through no longer specialises, and the other slots have to do all the telling
apart. When experts are spread over devices, the one that holds it sets the pace for all.

## How it is measured

As in dead-experts, for every pair of expert and layer: an exact (Clopper-Pearson) lower bound on the chance that a
token uses the expert, with the tokens of a document counted as fewer by the measured design effect, and Holm's
procedure over all pairs of the model. The unit are odds, p / (1 - p), over those of the fair share k/E: a multiple
of the share itself is out of reach where k/E is large (five fair shares at 2 of 8) and little where it is small. Twelve
times the fair odds are 80 % of the tokens at 2 of 8 and at 4 of 16, 63 % at 8 of 64 (five fair shares), and 20 % at 8
of 384. It is an error only if nearly all of the tokens of every single source use the expert: on any reading, such an
expert is not chosen but given.

## Limits

- `overload_odds` (12): lower bound of the odds, over the fair ones, above which an expert is named. The fullest expert
  of OLMoE (8 of 64) has 3.8 on a mixture (2.8 fair shares) and 7.0 after fine-tuning (4.0), that of Mixtral (2 of 8)
  at most 1.5 on any single domain.
- `overload_share` (0): the limit in fair shares that this detector had before; where it is set, it counts instead, up
  to `always_share` of the tokens.
- `always_share` (0.9): share of the tokens, in every source, above which it is an error, if it is overloaded as well.
- `family_error` (0.01): chance of one wrong expert or more among all experts of all layers.
- `min_sources` (5): sources of text; on a single domain healthy experts look overloaded.
- `min_documents` (30): documents, the clusters within which tokens are alike.

## Known false alarms

A probe that is mostly of one kind overloads the experts of that kind even if it has five sources. Families that
route a shared expert through the gate on purpose use it for every token. Zero and skip experts are exempt.

## What to do

Compare the gate row and the bias of the expert with the base checkpoint. When training, raise the weight or the
speed of the balancing; on a finished checkpoint a selection bias can be recalibrated without gradients.

## References

Clopper and Pearson, Biometrika 26 (1934); Holm, Scandinavian Journal of Statistics 6 (1979); loss-free balancing
(arXiv 2408.15664) for MaxVio; OLMoE (arXiv 2409.02060) for the load of a published model.
"""

import math

from pydantic import Field, field_validator

from moeprobe.detectors.case import Case
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.holm import holm
from moeprobe.detectors.load_sample import LoadLimits, Sample, sample
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.evidence import Evidence

ALWAYS = "an expert is used by nearly every token"
OVERLOADED = "experts get far more than their share"


class OverloadedExpertsLimits(LoadLimits):
    """Bars of overloaded-experts."""

    overload_odds: float = Field(12, gt=1, description="Lower bound of odds over the fair odds; published reach 7.0")
    overload_share: float = Field(0, ge=0, description="Former limit, in fair shares; counts instead where it is set")
    always_share: float = Field(0.9, gt=0, lt=1, description="Lower bound of the tokens of every source: an error")

    @field_validator("overload_share")
    @classmethod
    def _more_than_fair(cls, share: float) -> float:
        if 0 < share <= 1:
            raise ValueError("it must be more than one fair share, or 0 to leave the limit to overload_odds")
        return share


class OverloadedExperts(Detector[OverloadedExpertsLimits]):
    """Experts that far more tokens of a mixture of texts use than their fair share."""

    name = "overloaded-experts"
    code = "MP602"
    Limits = OverloadedExpertsLimits

    def judge(self, evidence: Evidence, limits: OverloadedExpertsLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        samples = [sample(case) for case in cases]
        pairs = [(p, e) for p, seen in enumerate(samples) if seen for e in range(len(seen.hits))]
        over, always = {}, {}
        for place, expert in pairs:
            seen = samples[place]
            assert seen
            bar, hits = _bar(seen, limits), seen.hits[expert]
            over[place, expert] = 1.0 if hits <= bar * seen.tokens else seen.so_many(expert, bar)
            most = max(limits.always_share, bar)
            always[place, expert] = seen.so_many_everywhere(expert, most) if hits > most * seen.tokens else 1.0
        over_fallen, always_fallen = holm(over, limits.family_error), holm(always, limits.family_error)
        for place, (case, seen) in enumerate(zip(cases, samples, strict=True)):
            if seen:
                _judge(case, seen, _here(over_fallen, place), _here(always_fallen, place), len(pairs))
        return Judgement.of(cases)


def _here(fallen: dict[tuple[int, int], float], place: int) -> dict[int, float]:
    """Experts of one router, each with the error level of its bound."""
    return {expert: level for (where, expert), level in sorted(fallen.items()) if where == place}


def _bar(seen: Sample, limits: OverloadedExpertsLimits) -> float:
    """Share of the tokens above which an expert is overloaded."""
    if limits.overload_share:
        return max(seen.fair, min(seen.fair * limits.overload_share, limits.always_share))
    odds = limits.overload_odds * _odds(seen.fair)
    return odds / (1 + odds)


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def _judge(
    case: Case[OverloadedExpertsLimits], seen: Sample, over: dict[int, float], always: dict[int, float], pairs: int
) -> None:
    limits, bar = case.limits, _bar(seen, case.limits)
    sure = f"{percent(1 - limits.family_error)} for the whole model"
    if always:
        _find_always(case, seen, always, sorted({*over, *always}), sure)
    elif over:
        who = list(over)
        least = min(seen.lowest(expert, level, bar) for expert, level in over.items())
        odds = _odds(least * seen.fair) / _odds(seen.fair)
        by_share = bool(limits.overload_share)
        most_of = f"{percent(least * seen.fair)} of the tokens ({number(least)} fair shares"
        limit = f"{number(limits.overload_share)} fair shares" if by_share else f"{number(limits.overload_odds)} times"
        case.find(
            "warning",
            f"{listed(who, 'expert')} {'gets' if len(who) == 1 else 'get'} at least {most_of}, {number(odds)} times "
            f"the fair odds; {sure}; the limit is {limit}, here {percent(bar)} of the tokens) in {number(seen.tokens)} "
            f"tokens of {len(seen.by_source)} sources",
            quantity="lower bound in fair shares" if by_share else "lower bound of the odds over the fair odds",
            measured=least if by_share else odds,
            limit="overload_share" if by_share else "overload_odds",
            cause=OVERLOADED,
            remedy="Compare the gate rows and biases of these experts with the base checkpoint, and look at the load "
            "by source: text of one kind overloads its experts",
            experts=who,
        )
    else:
        needed = math.log(limits.family_error / pairs) / math.log(bar) if bar < 1 else math.inf
        worth = seen.tokens / seen.usual_effect(bar)
        if worth < needed:
            case.skip(
                f"too few tokens: {number(seen.tokens)} are worth {number(round(worth))} of the "
                f"{number(math.ceil(needed))} independent ones that it takes"
            )
        most = max(range(len(seen.hits)), key=lambda expert: seen.hits[expert])
        rate = seen.hits[most] / seen.tokens / seen.fair
        case.note(f"expert {most} is used most, at {number(rate)} fair shares")


def _find_always(
    case: Case[OverloadedExpertsLimits], seen: Sample, always: dict[int, float], who: list[int], sure: str
) -> None:
    limit = max(case.limits.always_share, _bar(seen, case.limits))
    given = list(always)
    least = min(seen.lowest_anywhere(expert, level, limit) for expert, level in always.items())
    others = [expert for expert in who if expert not in always]
    more = f"; {listed(others, 'expert')} {'is' if len(others) == 1 else 'are'} overloaded too" if others else ""
    case.find(
        "error",
        f"{listed(given, 'expert')} {'is' if len(given) == 1 else 'are'} used by at least {percent(least)} of the "
        f"tokens of every source ({sure}; the limit is {percent(limit)}){more}",
        quantity="lower bound of the share of tokens in every source",
        measured=least,
        limit="always_share",
        cause=ALWAYS,
        remedy="Compare the gate row and the bias of the expert with the base checkpoint and restore them",
        experts=who,
    )
