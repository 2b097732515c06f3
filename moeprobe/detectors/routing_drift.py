"""MP801 routing-drift: a router chooses otherwise than that of the base model.

## What it finds

A model and the model that it was made from (by fine-tuning, merging, quantising or converting), on the same tokens:
routers that send tokens to other experts than before, or with other weights; loads that moved; experts that went
cold or hot; experts that stand in another order; a hash table that is not the base's.

What differs before any token is read comes first: the routing rule (top-k, score function, renormalisation, factors,
groups, whether there is a bias), a bias that moved under a gate that did not, experts that changed alone or were
renumbered, and experts that are gone.

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

Facts of the rule are compared as measured on the tokens, or as declared where they could not be. Matrices, biases and
experts (a checksum each) are compared bit for bit. A rule or bias that differs, or experts that alone changed, are
named as the cause of what the gates behind them do. Where a gate's rows are the base's in another order, or some of
them are gone, they are matched by cosine, and the base is put in that order and judged without those that are gone; a
renumbering of rows and experts together is only noted.

## Limits

- `firm_warning` (0.75): share of experts kept by margin, beyond chance, below which it is a warning. bfloat16 keeps
  0.99, gentle training 0.8 to 0.96, ten times its rate at most 0.67, see docs/routing-drift.md.
- `kept_warning` (0.6): share of experts kept, beyond chance. Two engines with the same weights keep some 0.9.
- `kept_mild` (0.89): share of experts kept, chance included, from which half of these two limits hold: where 6 of 8
  are chosen, independent choices share 0.75, and a gentle fine-tune that keeps 0.9 has gone two fifths of the way.
- `weights_warning` (0.5): L1 distance of the weights over their sum; a lost factor of 2.5 gives 0.6.
- `load_warning` (0.15): total variation of the load; published fine-tunes moved it by 0.006 to 0.083.
- `shift_warning` (5): factor by which an expert's load changes; published fine-tunes reach 2.9.
- `shift_least` (0.5): fair shares that the larger of an expert's two loads must have for that.
- `order_warning` (0.8): correlation with the base's experts that another order must reach and the old one must miss;
  logits that drifted by three quarters of their spread still correlate by 0.8.
- `min_tokens` (1000): tokens before anything but a hash table is judged.

## Known false alarms

Training that is meant to move the routing (a new language, another balance loss) moves it: then the numbers are right
and the limits want moving. Experts that were renumbered together with their gate rows compute the same function; where
the experts' tensors cannot be read (they are quantised), the finding says that it could not tell.

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
from moeprobe.detectors.drift_bars import beyond, beyond_chance, far, unexplained
from moeprobe.detectors.drift_facts import (
    BEHIND,
    Difference,
    bias_alone,
    bias_cause,
    difference,
    judge_order,
    judge_rule,
    tell_bias,
    tell_experts,
    tell_pruning,
)
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.drift import Base, Drift
from moeprobe.findings.evidence import Evidence

TABLE = "the hash table is not the base's"
OWN = "the gate itself chooses otherwise than the base's"
INHERITED = "the layers before give the gate other inputs than in the base"
UNTOLD = "the choice is not the base's"
WEIGHTS = "the same experts get other weights than in the base"

_REMEDIES = {
    TABLE: "Take the hash table (tid2eid) from the base; training does not change it",
    OWN: "Compare the loss with the base's; take the gate from the base, or train it at a lower rate",
    INHERITED: "Compare the loss with the base's; something before this gate changed much, train it at a lower rate",
    UNTOLD: "Compare the loss with the base's, and the gate's weights with the base's",
    WEIGHTS: "Compare the score function, norm_topk_prob and routed_scaling_factor with the base's config; if they are "
    "the same, the gate itself changed: train it at a lower rate",
}


_MILD = 0.5
"""Part of a limit on the choice that holds where nearly all experts are kept."""


class RoutingDriftLimits(Limits):
    """Bars of routing-drift."""

    firm_warning: float = Field(
        0.75, gt=0, lt=1, description="Experts kept by margin, beyond chance; bfloat16 keeps 0.99"
    )
    kept_warning: float = Field(0.6, gt=0, lt=1, description="Experts kept, beyond chance; two engines keep some 0.9")
    kept_mild: float = Field(0.89, gt=0, le=1, description="Experts kept from which half of these limits hold")
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
        before: Difference | None = None
        for case in cases:
            if evidence.base is None:
                case.skip("needs a base model")
            elif case.evidence.drift is not None:
                _judge(case, case.evidence.drift, evidence.base, before)
                before = before or difference(case.place.lower(), case.evidence.drift, evidence.base)
            elif case.activations() is not None:
                case.fail("the base's router could not be recorded or verified")
        return Judgement.of(cases)


def _judge(case: Case[RoutingDriftLimits], drift: Drift, base: Base, before: Difference | None) -> None:
    tell_pruning(case, drift)
    moved = judge_order(case, drift, case.limits.order_warning, case.limits.min_tokens)
    _judge_table(case, drift, moved)
    judge_rule(case, drift)
    if case.enough_tokens(drift.tokens, case.limits.min_tokens):
        chosen = moved or bool(drift.table_changed or drift.facts) or _judge_choice(case, drift, before)
        if not chosen:
            _judge_weights(case, drift, before)
            _judge_load(case, drift, before)
            _judge_shifts(case, drift, before)
    tell_bias(case, drift)
    tell_experts(case, drift, base)
    case.keep_worst()


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


def _judge_choice(case: Case[RoutingDriftLimits], drift: Drift, before: Difference | None) -> bool:
    """Whether the tokens go to other experts."""
    router = case.evidence.router
    kinds = (
        (drift.firm_overlap, ", weighted by the base's margin,", "firm_warning"),
        (drift.overlap, "", "kept_warning"),
    )
    for share, how, limit in kinds:
        found = None if share is None else beyond_chance(share, router)
        # Where few are left out, a few choices are much of what chance would change.
        part = _MILD if drift.overlap.value >= case.limits.kept_mild else 1.0
        if share is None or found is None or not beyond(found, part * getattr(case.limits, limit), below=True):
            continue
        words = (
            f"{percent(share.value)} of the base's experts{how} are still chosen, {percent(found.value)} of the way "
            f"from independent choices of {router.top_k} of {router.score_columns} to the same ones"
        )
        quantity = f"share of the base's experts kept{how.rstrip(',')}, beyond chance"
        _find(case, drift, before, words, quantity, found.value, limit)
        return True
    return False


def _judge_weights(case: Case[RoutingDriftLimits], drift: Drift, before: Difference | None) -> None:
    distance = None if drift.weight_l1 is None else unexplained(drift.weight_l1, drift.overlap)
    if drift.weight_l1 is not None and distance is not None and beyond(distance, case.limits.weights_warning):
        case.find(
            "warning",
            f"the routing weights differ from the base's by {percent(drift.weight_l1.value)} of their sum; the "
            f"{percent(1 - drift.overlap.value)} of experts that are not the same leave {percent(distance.value)} "
            f"unexplained (the limit is {percent(case.limits.weights_warning)})",
            quantity="L1 distance of the routing weights over their sum, without changed choices",
            measured=distance.value,
            limit="weights_warning",
            cause=BEHIND if before is not None and drift.gate_same else WEIGHTS,
            remedy=before.remedy if before is not None and drift.gate_same else _REMEDIES[WEIGHTS],
        )


def _judge_load(case: Case[RoutingDriftLimits], drift: Drift, before: Difference | None) -> None:
    moved, floor = drift.load_tv, drift.load_tv_floor or 0.0
    if beyond(moved, case.limits.load_warning) and moved.value > floor:
        words = f"{percent(moved.value)} of the load moved (between two samples of texts: {percent(floor)})"
        _find(case, drift, before, words, "total variation of the load", moved.value, "load_warning")


def _judge_shifts(case: Case[RoutingDriftLimits], drift: Drift, before: Difference | None) -> None:
    """Experts that went cold or hot."""
    bar = case.limits.shift_warning
    shifted = [one for one in drift.shifts if max(one.base, one.tuned) >= case.limits.shift_least and far(one, bar)]
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
    quantity = "factor by which an expert's load changed"
    _find(case, drift, before, words, quantity, factor, "shift_warning", [*cold, *hot])


def _find(
    case: Case[RoutingDriftLimits],
    drift: Drift,
    before: Difference | None,
    words: str,
    quantity: str,
    measured: float,
    limit: str,
    experts: list[int] | None = None,
) -> None:
    cause, remedy = _origin(drift, before)
    told = before.words if before is not None and cause == BEHIND else cause
    bar = getattr(case.limits, limit)
    case.find(
        "warning",
        f"{words} (the limit is {percent(bar) if bar <= 1 else number(bar)}); {told}",
        quantity=quantity,
        measured=measured,
        limit=limit,
        cause=cause,
        remedy=remedy,
        experts=experts or [],
    )


def _origin(drift: Drift, before: Difference | None) -> tuple[str, str]:
    """Cause and remedy: the gate's own if half of the changed sets change as well when both gates read the same inputs.

    What is equal bit for bit chooses as before, whatever the tokens show; a fact that differs above explains the rest.
    """
    own: bool | None = None
    if drift.own_sets is not None:
        own = 1 - drift.own_sets.value >= (1 - drift.same_sets.value) / 2
    elif drift.gate_same and not before and bias_alone(drift):
        own = True
    if drift.gate_same and not bias_alone(drift):
        own = False
    if own:
        return bias_cause() if bias_alone(drift) else (OWN, _REMEDIES[OWN])
    if before is not None:
        return BEHIND, before.remedy
    cause = UNTOLD if own is None else INHERITED
    return cause, _REMEDIES[cause]
