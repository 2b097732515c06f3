"""MP801 routing-drift: a router chooses otherwise than that of the base model.

## What it finds

A model and the model that it was made from (by fine-tuning, merging, quantising or converting), on the same tokens:
routers that send tokens to other experts than before, or with other weights; loads that moved; experts that went
cold or hot; experts that stand in another order; a hash table that is not the base's.

## Why it matters

Experts and router are trained together. A fine-tune at a learning rate that was too high, a merge of unlike models or
a conversion that mixed up the order of the gate's rows leaves every single tensor looking healthy; only beside the
base does it show that the tokens go elsewhere.

## How it is measured

`moeprobe diff BASE TUNED` runs the same tokens through both. Of the base's experts a share is kept (overlap@k), and
again *by margin*: each token counts by the base's margin between the last chosen and the first left-out expert, so
that near-ties, which any rounding flips, count little. Both are judged *beyond chance*: 0 is what independent choices
of k of E experts share (k / E), 1 the same choice, so that the limits mean the same for 1 of 128 and for 6 of 8. Whole
sets are reported, not judged: they fall with k where every single choice is as firm. The L1 distance of the routing
weights is relative to their sum, and what the changed choices alone explain of it, two for each, is taken off. The
load's total variation must also exceed what two samples of texts of the base alone show. A bar counts as crossed only
if the whole 99 % interval over documents lies beyond it.

The base's gate is also given the tuned model's inputs: where the two gates then agree, the change came in from the
layers before, and the finding follows from an earlier one. Experts that changed places show in the correlation
of their logits over tokens: if those of each expert of the base are found at another one, the order is another. A
hash table is compared row by row.

## Limits

- `firm_warning` (0.7): share of experts kept by margin, beyond chance, below which it is a warning. bfloat16 keeps
  0.99, see docs/routing-drift.md.
- `kept_warning` (0.6): share of experts kept, beyond chance. Two engines with the same weights keep some 0.9.
- `weights_warning` (0.5): L1 distance of the weights over their sum; a lost factor of 2.5 gives 0.6.
- `load_warning` (0.15): total variation of the load; published fine-tunes moved it by 0.006 to 0.083.
- `shift_warning` (5): factor by which an expert's load changes; published fine-tunes reach 2.9.
- `shift_least` (0.5): fair shares that the larger of an expert's two loads must have for that.
- `order_warning` (0.8): correlation with the base's experts that another order must reach and the old one must miss;
  logits that drifted by three quarters of their spread still correlate by 0.8.
- `min_tokens` (1000): tokens before anything but a hash table is judged.

## Known false alarms

Training that is meant to move the routing (a new language, another balance loss) moves it: then the numbers are right
and the limits want moving. Experts that were renumbered together with their gate rows compute the same function;
the finding says that the order is another, and only the experts' weights tell whether they moved too.

## What to do

See whether the loss on the base's own texts rose. If it did, go back: a smaller learning rate for the gate (or none),
the base's gate and table in the merge, or the right order of experts in the conversion.

## References

docs/science.md A6; GSPO (arXiv 2507.18071, 5.3): some 10 % of the experts change after one step of reinforcement
learning; R3 (arXiv 2510.11370): some 10 % of the choices differ between two engines.
"""

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.drift import Drift, LoadShift
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.numbers import Interval
from moeprobe.findings.router import Router

TABLE = "the hash table is not the base's"
RENUMBERED = "the experts stand in another order than in the base"
OWN = "the gate itself chooses otherwise than the base's"
INHERITED = "the layers before give the gate other inputs than in the base"
UNTOLD = "the choice is not the base's"
WEIGHTS = "the same experts get other weights than in the base"

_REMEDIES = {
    TABLE: "Take the hash table (tid2eid) from the base; training does not change it",
    RENUMBERED: "Compare the experts' weights with the base: if they did not move with their gate rows, the conversion "
    "is wrong",
    OWN: "Compare the loss with the base's; take the gate from the base, or train it at a lower rate",
    INHERITED: "Compare the loss with the base's; something before this gate changed much, train it at a lower rate",
    UNTOLD: "Compare the loss with the base's, and the gate's weights with the base's",
    WEIGHTS: "Compare the score function, norm_topk_prob and routed_scaling_factor with the base's config; if they are "
    "the same, the gate itself changed: train it at a lower rate",
}


class RoutingDriftLimits(Limits):
    """Bars of routing-drift."""

    firm_warning: float = Field(
        0.7, gt=0, lt=1, description="Experts kept by margin, beyond chance; bfloat16 keeps 0.99"
    )
    kept_warning: float = Field(0.6, gt=0, lt=1, description="Experts kept, beyond chance; two engines keep some 0.9")
    weights_warning: float = Field(0.5, gt=0, le=2, description="L1 of the weights; a lost factor of 2.5 gives 0.6")
    load_warning: float = Field(0.15, gt=0, le=1, description="Total variation of the load; fine-tunes: up to 0.083")
    shift_warning: float = Field(5, gt=1, description="Factor of an expert's load; fine-tunes reach 2.9")
    shift_least: float = Field(0.5, ge=0, description="Fair shares of the larger load of such an expert")
    order_warning: float = Field(
        0.8, gt=0, le=1, description="Correlation of logits that drifted by 3/4 of their spread"
    )
    min_tokens: int = Field(1000, ge=1, description="Tokens before anything but a hash table is judged")


class RoutingDrift(Detector[RoutingDriftLimits]):
    """A router chooses otherwise than that of the base model."""

    name = "routing-drift"
    code = "MP801"
    Limits = RoutingDriftLimits

    def judge(self, evidence: Evidence, limits: RoutingDriftLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            if evidence.base is None:
                case.skip("needs a base model")
            elif case.evidence.drift is not None:
                _judge(case, case.evidence.drift)
            elif case.activations() is not None:
                case.fail("the base's router could not be recorded or verified")
        return Judgement.of(cases)


def _judge(case: Case[RoutingDriftLimits], drift: Drift) -> None:
    moved = _judge_order(case, drift)
    _judge_table(case, drift, moved)
    if case.enough_tokens(drift.tokens, case.limits.min_tokens):
        chosen = moved or bool(drift.table_changed) or _judge_choice(case, drift)
        if not chosen:
            _judge_weights(case, drift)
            _judge_load(case, drift)
            _judge_shifts(case, drift)
    case.keep_worst()


def _judge_order(case: Case[RoutingDriftLimits], drift: Drift) -> bool:
    """Whether the experts stand in another order."""
    found, limits = drift.renumbering, case.limits
    if found is None or drift.tokens < limits.min_tokens:
        return False
    if found.likeness < limits.order_warning or found.likeness_as_is >= limits.order_warning:
        return False
    experts = [old for old, new in enumerate(found.now) if old != new]
    moves = [f"{old} is now {found.now[old]}" for old in experts]
    told = ", ".join(moves[:4]) + (" ..." if moves[4:] else "")
    case.find(
        "warning",
        f"{listed(experts, 'expert')} of the base stand elsewhere ({told}): the correlation with the base is "
        f"{number(found.likeness)} in that order and {number(found.likeness_as_is)} in the old one "
        f"(the limit is {number(limits.order_warning)})",
        quantity="correlation with the base's expert of the same number",
        measured=found.likeness_as_is,
        limit="order_warning",
        cause=RENUMBERED,
        remedy=_REMEDIES[RENUMBERED],
        experts=experts,
    )
    return True


def _judge_table(case: Case[RoutingDriftLimits], drift: Drift, moved: bool) -> None:
    if drift.table_changed and not moved:
        case.find(
            "error",
            f"{drift.table_changed:,} of {drift.table_rows:,} rows of the hash table name other experts than in the "
            "base",
            quantity="rows of the hash table that changed",
            measured=drift.table_changed,
            cause=TABLE,
            remedy=_REMEDIES[TABLE],
        )


def beyond_chance(kept: Interval, router: Router) -> Interval | None:
    """The share of kept experts where 0 is what independent choices share, k / E, and 1 the same choice.

    None where every token uses every expert.
    """
    chance = router.top_k / router.score_columns
    if chance >= 1:
        return None
    values = {
        name: None if (value := getattr(kept, name)) is None else (value - chance) / (1 - chance)
        for name in ("value", "low", "high")
    }
    return Interval.model_validate(values)


def _judge_choice(case: Case[RoutingDriftLimits], drift: Drift) -> bool:
    """Whether the tokens go to other experts."""
    router = case.evidence.router
    kinds = (
        (drift.firm_overlap, ", weighted by the base's margin,", "firm_warning"),
        (drift.overlap, "", "kept_warning"),
    )
    for share, how, limit in kinds:
        found = None if share is None else beyond_chance(share, router)
        if share is None or found is None or not _beyond(found, getattr(case.limits, limit), below=True):
            continue
        words = (
            f"{percent(share.value)} of the base's experts{how} are still chosen, {percent(found.value)} of the way "
            f"from independent choices of {router.top_k} of {router.score_columns} to the same ones"
        )
        _find(
            case, drift, words, f"share of the base's experts kept{how.rstrip(',')}, beyond chance", found.value, limit
        )
        return True
    return False


def _judge_weights(case: Case[RoutingDriftLimits], drift: Drift) -> None:
    distance = None if drift.weight_l1 is None else _unexplained(drift.weight_l1, drift.overlap)
    if drift.weight_l1 is not None and distance is not None and _beyond(distance, case.limits.weights_warning):
        case.find(
            "warning",
            f"the routing weights differ from the base's by {percent(drift.weight_l1.value)} of their sum, of which the "
            f"{percent(1 - drift.overlap.value)} of the experts that are not the same leave {percent(distance.value)} "
            f"unexplained (the limit is {percent(case.limits.weights_warning)})",
            quantity="L1 distance of the routing weights over their sum, without changed choices",
            measured=distance.value,
            limit="weights_warning",
            cause=WEIGHTS,
            remedy=_REMEDIES[WEIGHTS],
        )


def _unexplained(distance: Interval, overlap: Interval) -> Interval:
    """The L1 distance without that of changed choices: each takes its weight from one expert and gives it to another."""
    changed = 2 * (1 - overlap.value)
    ends = {end: getattr(distance, end) for end in ("value", "low", "high")}
    return Interval.model_validate({end: None if value is None else value - changed for end, value in ends.items()})


def _judge_load(case: Case[RoutingDriftLimits], drift: Drift) -> None:
    moved, floor = drift.load_tv, drift.load_tv_floor or 0.0
    if _beyond(moved, case.limits.load_warning) and moved.value > floor:
        words = f"{percent(moved.value)} of the load moved (between two samples of texts: {percent(floor)})"
        _find(case, drift, words, "total variation of the load", moved.value, "load_warning")


def _judge_shifts(case: Case[RoutingDriftLimits], drift: Drift) -> None:
    """Experts that went cold or hot."""
    bar = case.limits.shift_warning
    shifted = [one for one in drift.shifts if max(one.base, one.tuned) >= case.limits.shift_least and _far(one, bar)]
    if not shifted:
        return
    worst = max(shifted, key=lambda one: max(one.ratio.value, 1 / one.ratio.value))
    cold = [one.expert for one in shifted if one.ratio.value < 1]
    hot = [one.expert for one in shifted if one.ratio.value > 1]
    told = [f"{listed(experts, 'expert')} went {how}" for experts, how in ((cold, "cold"), (hot, "hot")) if experts]
    words = (
        f"{' and '.join(told)}: expert {worst.expert} took {number(worst.base)} fair shares of the tokens in the base "
        f"and takes {number(worst.tuned)}"
    )
    factor = max(worst.ratio.value, 1 / worst.ratio.value)
    _find(case, drift, words, "factor by which an expert's load changed", factor, "shift_warning", [*cold, *hot])


def _far(shift: LoadShift, bar: float) -> bool:
    return _beyond(shift.ratio, bar) or _beyond(shift.ratio, 1 / bar, below=True)


def _find(
    case: Case[RoutingDriftLimits],
    drift: Drift,
    words: str,
    quantity: str,
    measured: float,
    limit: str,
    experts: list[int] | None = None,
) -> None:
    cause, bar = _origin(drift), getattr(case.limits, limit)
    case.find(
        "warning",
        f"{words} (the limit is {percent(bar) if bar <= 1 else number(bar)}); {cause}",
        quantity=quantity,
        measured=measured,
        limit=limit,
        cause=cause,
        remedy=_REMEDIES[cause],
        experts=experts or [],
    )


def _origin(drift: Drift) -> str:
    """Whether at least half of the sets that changed do so as well when both gates read the same inputs."""
    if drift.own_sets is None:
        return UNTOLD
    return OWN if 1 - drift.own_sets.value >= (1 - drift.same_sets.value) / 2 else INHERITED


def _beyond(measured: Interval, bar: float, *, below: bool = False) -> bool:
    """Whether the value and its whole interval lie beyond the bar; a bar of equality is crossed."""
    ends = [end for end in (measured.low, measured.high) if end is not None]
    return all(value <= bar if below else value >= bar for value in (measured.value, *ends))
