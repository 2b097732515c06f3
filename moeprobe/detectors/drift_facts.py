"""What routing-drift says before it looks at tokens: another rule, a bias or experts alone that moved, lost experts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.drift import Base, Drift, FactChange, LostExpert, Renumbering

if TYPE_CHECKING:
    from moeprobe.detectors.case import Case

RENUMBERED = "the experts stand in another order than in the base"
TOGETHER = "the experts were renumbered together with their gate rows"
RULE = "the routing rule is not the base's"
BIAS = "only the bias moved, and the gate's matrix is the base's"
EXPERTS = "only the experts changed, and the gate is the base's"
PRUNED = "experts of the base are gone"
UNTIED = "the experts that are left are not those of their gate rows"
BEHIND = "what differs in a layer before gives this gate other inputs"

_KEYS = {
    "top-k": "num_experts_per_tok",
    "score function": "scoring_func",
    "renormalisation": "norm_topk_prob",
    "scaling factor": "routed_scaling_factor",
    "output factor": "the factor on the experts' output",
    "groups": "n_group and topk_group",
    "selection bias": "the selection bias (e_score_correction_bias)",
    "place of the bias": "what the selection bias is added to",
}
"""What says so, by the names that most configs use."""
_BIAS_REMEDY = "Restore the base's bias, and freeze it (or stop its balancing updates) while the gate is not trained"
_RENUMBERED_REMEDY = (
    "Compare the experts' weights with the base: if they did not move with their gate rows, the conversion is wrong"
)
_NOTHING = "Nothing is to be done; compare loads and other numbers of the two models by the new order"


@dataclass(frozen=True)
class Difference:
    """What differs in a layer, in words, and what to do about it: it explains what the layers behind it do."""

    words: str
    remedy: str


def restore(facts: list[FactChange]) -> str:
    """What to do about facts that differ."""
    told = " and ".join(f"{_KEYS[one.name]} ({one.base} in the base, {one.tuned} here)" for one in facts)
    return f"Restore {told}, in config.json or in the conversion, then compare again"


def difference(place: str, drift: Drift, base: Base) -> Difference | None:
    """What the layers behind this one suffer from; None where it is the base's, or was trained as a whole."""
    if drift.facts:
        names = " and ".join(one.name for one in drift.facts)
        return Difference(f"the {names} of {place} is not the base's", restore(drift.facts))
    if bias_alone(drift):
        trained = f", nor are {drift.experts_changed} of its experts" if drift.experts_changed else ""
        return Difference(f"the bias of {place} is not the base's{trained}", _BIAS_REMEDY)
    if drift.pruning is not None:
        gone = len(drift.pruning.gone)
        return Difference(f"{gone} of {gone + len(drift.pruning.kept)} experts of {place} are gone", _loss("pruned"))
    if experts_alone(drift, base):
        return Difference(f"{drift.experts_changed} experts of {place} are not the base's", _loss("trained"))
    return None


def _loss(how: str) -> str:
    again = "keep more experts, or train on" if how == "pruned" else "train the experts at a lower rate"
    return f"Compare the loss with the base's; if it rose, {again}"


def bias_alone(drift: Drift) -> bool:
    """Whether the gate is the base's but for its bias."""
    return drift.gate_same is True and drift.bias_same is False and not drift.facts


def experts_alone(drift: Drift, base: Base) -> bool:
    """Whether the gate is the base's, bias and all, and experts are not; and nothing else changed, as far as known."""
    gate = drift.gate_same is True and drift.bias_same is True and not drift.facts
    return gate and bool(drift.experts_changed) and base.others_same is not False


def judge_rule(case: "Case[Any]", drift: Drift) -> None:
    """Facts of the rule that are not the base's."""
    if not drift.facts:
        return
    told = "; ".join(f"the {one.name} is {one.tuned}, and {one.base} in the base" for one in drift.facts)
    kept = f"{percent(drift.overlap.value)} of the base's experts are still chosen"
    more = ""
    if drift.weight_l1 is not None:
        more = f", and the weights differ by {percent(drift.weight_l1.value)} of their sum"
    case.find(
        "warning",
        f"{told} ({kept}{more})",
        quantity="facts of the routing rule that differ",
        measured=len(drift.facts),
        cause=f"{RULE}: {', '.join(one.name for one in drift.facts)}",
        remedy=restore(drift.facts),
    )


def tell_bias(case: "Case[Any]", drift: Drift) -> None:
    """A bias that moved under a gate that did not, where no bar was crossed by it."""
    if not bias_alone(drift) or any(found.severity != "info" for found in case.findings):
        return
    most = "" if drift.bias is None else f" (by up to {number(drift.bias.largest)}, at expert {drift.bias.expert})"
    case.find(
        "info",
        f"the gate's matrix is the base's bit for bit and its bias is not{most}; "
        f"{percent(drift.overlap.value)} of the base's experts are still chosen",
        quantity="largest change of the bias",
        measured=None if drift.bias is None else drift.bias.largest,
        cause=BIAS,
        remedy=_BIAS_REMEDY,
    )


def bias_cause() -> tuple[str, str]:
    """Cause and remedy of a choice that drifted because the bias did."""
    return BIAS, _BIAS_REMEDY


def tell_experts(case: "Case[Any]", drift: Drift, base: Base) -> None:
    """Experts that changed behind a gate that did not."""
    if not experts_alone(drift, base):
        return
    of = case.evidence.router.experts
    beside = "so is all that is neither gate nor expert" if base.others_same else "the rest could not be compared"
    case.find(
        "info",
        f"only experts changed: {drift.experts_changed} of {of} are not the base's; the gate is, bit for bit, and "
        f"{beside}",
        quantity="experts whose tensors changed",
        measured=drift.experts_changed,
        cause=EXPERTS,
        remedy=_loss("trained"),
    )


def tell_pruning(case: "Case[Any]", drift: Drift) -> None:
    """Which experts are gone, and where their tokens went."""
    pruning = drift.pruning
    if pruning is None:
        return
    gone = [one.expert for one in pruning.gone]
    count = len(gone) + len(pruning.kept)
    worst = sorted(pruning.gone, key=lambda one: -one.load)[:4]
    case.find(
        "info",
        f"{listed(gone, 'expert')} of the base's {count} {'is' if len(gone) == 1 else 'are'} gone. "
        f"{'; '.join(map(_went, worst))}. The rest is judged against the base without them",
        quantity="experts that are gone",
        measured=len(gone),
        cause=PRUNED,
        remedy=_loss("pruned"),
    )
    if pruning.together is False:
        case.find(
            "warning",
            "the sizes of the experts' matrices fit those of the base better in another order than in that of the "
            "gate's rows",
            quantity="experts that follow their gate rows",
            cause=UNTIED,
            remedy="Take gate rows and experts out of the base by the same list of numbers",
        )


def _went(one: LostExpert) -> str:
    taken = ", ".join(f"{percent(to.share)} by expert {to.expert}" for to in one.receivers[:3])
    where = f"its tokens' new choices are taken {taken}" if taken else "it had no tokens"
    return f"Expert {one.expert} took {number(one.load)} fair shares of the tokens; {where} (the base's numbers)"


def judge_order(case: "Case[Any]", drift: Drift, bar: float, least_tokens: int) -> bool:
    """Whether the experts stand in another order in which the drift was not counted."""
    found = drift.renumbering
    if found is None or not (found.aligned or _clear(found, drift, bar, least_tokens)):
        return False
    experts = [old for old, new in enumerate(found.now) if old != new]
    moves = [f"{old} is now {found.now[old]}" for old in experts]
    told = ", ".join(moves[:4]) + (" ..." if moves[4:] else "")
    if found.together:
        case.find(
            "info",
            f"{listed(experts, 'expert')} of the base stand elsewhere ({told}), with their gate rows: the layer "
            "computes the same in another order",
            quantity="experts that were renumbered",
            measured=len(experts),
            cause=TOGETHER,
            remedy=_NOTHING,
            experts=experts,
        )
        return not found.aligned
    unknown = "; whether the experts' tensors moved as well could not be told" if found.together is None else ""
    case.find(
        "warning",
        f"{listed(experts, 'expert')} of the base stand elsewhere ({told}): the correlation with the base is "
        f"{number(found.likeness)} in that order and {number(found.likeness_as_is)} in the old one "
        f"(the limit is {number(bar)}){unknown}",
        quantity="correlation with the base's expert of the same number",
        measured=found.likeness_as_is,
        limit="order_warning",
        cause=RENUMBERED,
        remedy=_RENUMBERED_REMEDY,
        experts=experts,
    )
    return True


def _clear(found: Renumbering, drift: Drift, bar: float, least_tokens: int) -> bool:
    enough = drift.tokens >= least_tokens
    return enough and found.likeness >= bar and found.likeness_as_is < bar
