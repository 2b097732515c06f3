"""MP601 dead-experts: experts that hardly any token of a mixture of texts reaches.

## What it finds

Experts of which it is proved, at the number of tokens that were read, that they get less than a hundredth of
their fair share on a mixture of several kinds of text.

## Why it matters

Their parameters are stored, loaded and never used: training collapsed there, or a conversion lost or shuffled a
gate row. What these experts had learned is missing from the model's output.

## How it is measured

For every pair of expert and layer, the tokens that used the expert give an exact (Clopper-Pearson) upper bound on
the chance that a token uses it, which is compared with the fair share k/E. Tokens of one document are alike, so
they count as fewer: the number of tokens is divided by the design effect, the variance of the expert's count
between documents of the same source over that of independent tokens. Holm's procedure over all pairs of the model
holds the chance of one wrong expert or more at 1 %. Where even no hit at all could not prove so small a share, the
verdict says how much the experts that were not seen can have at most, and never that they are dead.

## Limits

- `dead_share` (0.01): upper bound in fair shares below which an expert is named.
- `family_error` (0.01): chance of one wrong expert or more among all experts of all layers.
- `min_sources` (5): sources of text; on a single domain healthy experts look dead.
- `min_documents` (30): documents, the clusters within which tokens are alike.

## Known false alarms

Text that is foreign to the model (a language that it never saw, or only one that the experts in question do not
serve) leaves healthy experts cold; published models have experts at a thousandth of the fair share on one domain
that are well used on the mixture. Many experts need many tokens: 16 experts of 4 layers about 3,500 independent
ones, 256 experts of 58 layers about 45,000. The design effect is itself
estimated from the documents, so the 1 % is approximate where there are few: when the 56 built-in ones were drawn
again and again, an expert of the trained test checkpoints at exactly the limit was named in 0.4 to 0.6 % of the
draws, one at twice the limit in none of 4,800. Zero and skip experts are exempt.

## What to do

Compare the gate rows and the biases of these experts with the base checkpoint, and probe with more text of the
kinds that the model is meant for. Do not prune them by this count: cold is not dead, and rare experts carry far
more of the quality than their traffic says (zeroing 220 experts with 0.66 % of the traffic of OLMoE cost 0.25 to
0.33 nats).

## References

Clopper and Pearson, Biometrika 26 (1934); Korn and Graubard, Survey Methodology 24 (1998), for effective samples;
Holm, Scandinavian Journal of Statistics 6 (1979); OLMoE (arXiv 2409.02060) for the load of a published model.
"""

import math

from pydantic import Field

from moeprobe.detectors.case import Case
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.holm import holm
from moeprobe.detectors.load_sample import LoadLimits, Sample, sample
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.evidence import Evidence

NEVER_USED = "experts are (nearly) never chosen"


class DeadExpertsLimits(LoadLimits):
    """Bars of dead-experts."""

    dead_share: float = Field(0.01, gt=0, lt=1, description="Upper bound in fair shares below which one is named")


class DeadExperts(Detector[DeadExpertsLimits]):
    """Experts that hardly any token of a mixture of texts reaches."""

    name = "dead-experts"
    code = "MP601"
    Limits = DeadExpertsLimits

    def judge(self, evidence: Evidence, limits: DeadExpertsLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        samples = [sample(case) for case in cases]
        chances = {
            (place, expert): _chance(seen, expert, seen.fair * limits.dead_share)
            for place, seen in enumerate(samples)
            if seen
            for expert in range(len(seen.hits))
        }
        fallen = holm(chances, limits.family_error)
        for place, (case, seen) in enumerate(zip(cases, samples, strict=True)):
            if seen:
                dead = {expert: level for (where, expert), level in fallen.items() if where == place}
                _judge(case, seen, dict(sorted(dead.items())), limits.family_error / len(chances))
        return Judgement.of(cases)


def _chance(seen: Sample, expert: int, share: float) -> float:
    """How likely so few hits are at this share; not worked out where it cannot be small."""
    return 1.0 if seen.hits[expert] >= share * seen.tokens else seen.so_few(expert, share)


def _judge(case: Case[DeadExpertsLimits], seen: Sample, dead: dict[int, float], level: float) -> None:
    share = seen.fair * case.limits.dead_share
    sure = percent(1 - case.limits.family_error)
    if dead:
        who = list(dead)
        most = max(seen.highest(expert, error, share) for expert, error in dead.items())
        case.find(
            "warning",
            f"{listed(who, 'expert')} {'gets' if len(who) == 1 else 'get'} at most {number(most)} of a fair share "
            f"({sure} for the whole model; the limit is {number(case.limits.dead_share)}): "
            f"{number(sum(seen.hits[expert] for expert in who))} uses in {number(seen.tokens)} tokens of "
            f"{len(seen.by_source)} sources",
            quantity="upper bound of the share",
            measured=most,
            limit="dead_share",
            cause=NEVER_USED,
            remedy="Compare the gate rows and biases of these experts with the base checkpoint, and probe with more "
            "kinds of text; do not prune them, cold is not dead",
            experts=who,
        )
        return
    unseen = [expert for expert, hits in enumerate(seen.hits) if not hits]
    if not unseen:
        least = min(range(len(seen.hits)), key=lambda expert: seen.hits[expert])
        rate = seen.hits[least] / seen.tokens / seen.fair
        case.note(f"every expert was seen; expert {least} least, at {number(rate)} of a fair share")
        return
    most = max(seen.highest(expert, level, share) for expert in unseen)
    worth = seen.tokens / seen.usual_effect(share)
    needed = math.ceil(math.log(level) / math.log1p(-share))
    case.skip(
        f"too few tokens: {number(seen.tokens)} are worth {number(round(worth))} of the {number(needed)} independent "
        f"ones that it takes; {len(unseen)} of {len(seen.hits)} experts were not seen (each at most {number(most)} of "
        f"a fair share, {sure})"
    )
