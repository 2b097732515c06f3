"""Kinds of findings, in the order in which one can cause the other at the same router."""

from dataclasses import dataclass

from moeprobe.detectors import (
    bias_balance,
    bias_runaway,
    broken_contract,
    drift_facts,
    duplicate_experts,
    flatness,
    hash_boundary,
    hash_table,
    low_precision,
    nonfinite_tensors,
    permuted_experts,
    routing_drift,
    scale_mismatch,
    sqrt_nan,
    tensor_sizes,
    top_one,
)
from moeprobe.findings.finding import Finding


@dataclass(frozen=True)
class Kind:
    """Findings of one detector that play the same part; ``causes`` empty: all that no other kind names.

    ``whole``: about the whole model, not one router.
    """

    name: str
    detector: str
    causes: tuple[str, ...] = ()
    whole: bool = False


def _certain(cause: str, fate: str) -> str:
    return f"{cause} {fate}"


# What stands in the files, or in the code.
MISPLACED = Kind("a hash layer in the wrong place", "hash-boundary", (hash_boundary.MISPLACED,))
COPIES = Kind("copied experts", "duplicate-experts", (duplicate_experts.IDENTICAL, duplicate_experts.SIMILAR))
COPIED_ROWS = Kind("copied gate rows", "duplicate-experts")
NONFINITE_BEFORE = Kind("tensors before the logits not finite", "sqrt-nan", nonfinite_tensors.BEFORE_LOGITS)
NONFINITE_BEHIND = Kind("tensors behind the choice not finite", "sqrt-nan", nonfinite_tensors.BEHIND_CHOICE)
TABLE = Kind("a damaged or unused hash table", "hash-boundary")
TABLE_UNUSED_ROWS = Kind(
    "rows of a hash table that no text reaches",
    "hash-boundary",
    (hash_table.ROWS, hash_table.SPARE_ONLY, hash_table.SPARE),
)
FEW_LEVELS = Kind("a gate of few levels", "low-precision-routing", (low_precision.FEW_LEVELS,))
EQUAL_ROWS = Kind("equal gate rows", "flat-scores", (flatness.EQUAL_ROWS,))
LOW_RANK = Kind("a gate of low rank", "flat-scores", (flatness.LOW_RANK,))
FLAT = Kind("flat scores", "flat-scores")
ROWS = Kind("gate rows of another size", "scale-mismatch", (tensor_sizes.ROWS,))
TENSORS = Kind(
    "tensors of another size", "scale-mismatch", tuple(one for one in tensor_sizes.TENSORS if one != tensor_sizes.ROWS)
)
TOP_ONE = Kind("constant top-1 weights", "broken-contract", (top_one.CONSTANT,))
OTHER_CHOICE = Kind(
    "another choice than the rule's",
    "broken-contract",
    (
        broken_contract.FOREIGN_EXPERTS,
        broken_contract.OUTSIDE_GROUPS,
        broken_contract.ZERO_MASK,
        broken_contract.BIAS_UNUSED,
        broken_contract.OTHER_CHOICE,
    ),
)
CONTRACT = Kind("a broken rule", "broken-contract")
RULE = Kind(
    "weights that do not sum to the promise",
    "scale-mismatch",
    (scale_mismatch.FACTOR, scale_mismatch.UNNORMALISED, scale_mismatch.NORMALISED, scale_mismatch.UNEXPLAINED),
)
BIAS_OFFSET = Kind(
    "an offset of the bias", "bias-runaway", (bias_runaway.OFFSET, bias_runaway.OFFSET_16BIT, bias_balance.UNRELATED)
)
BIAS_LOST = Kind("a lost bias", "bias-runaway", (bias_runaway.CONSTANT,))
BIAS = Kind("a damaged bias", "bias-runaway")
BIAS_ALWAYS = Kind("a bias above any score", "bias-runaway", (_certain(bias_runaway.SETTLED, bias_runaway.ALWAYS),))
BIAS_ALWAYS_SEEN = Kind(
    "a bias above every score seen", "bias-runaway", (_certain(bias_runaway.SETTLED_ON_PROBE, bias_runaway.ALWAYS),)
)
BIAS_NEVER = Kind("a bias below any score", "bias-runaway", (_certain(bias_runaway.SETTLED, bias_runaway.NEVER),))
BIAS_NEVER_SEEN = Kind(
    "a bias below every score seen", "bias-runaway", (_certain(bias_runaway.SETTLED_ON_PROBE, bias_runaway.NEVER),)
)
BIAS_DECIDES = Kind("a bias that decides", "bias-runaway", (bias_runaway.DECIDES,))
BIAS_OPPOSED = Kind("a bias against the balance", "bias-runaway", (bias_balance.OPPOSED,))
# What these do to the numbers that the probe shows.
LESS_EVEN = Kind("a load that the bias makes less even", "bias-runaway", (bias_balance.UNBALANCES,))
ONE_SET = Kind("one set of experts by the bias", "flat-scores", (flatness.BIAS_OUTWEIGHS,))
NOT_BY_TOKEN = Kind("one set of experts", "flat-scores", (flatness.NOT_BY_TOKEN,))
NAN = Kind(
    "values not finite", "sqrt-nan", tuple(c for c in sqrt_nan.NONFINITE_CAUSES if c != sqrt_nan.NONFINITE_OUTPUT)
)
NAN_OUTPUT = Kind("experts' output not finite", "sqrt-nan", (sqrt_nan.NONFINITE_OUTPUT,))
FADED = Kind("scores that fade", "sqrt-nan", (sqrt_nan.FADED,))
EDGE = Kind("logits at the edge", "sqrt-nan", (sqrt_nan.NAN_GRADIENT, sqrt_nan.NEAR_EDGE, sqrt_nan.GUARDED))
NUMERICS = Kind("other numerics", "sqrt-nan")
# Gate and experts, and what their bad match brings about.
ORDER = Kind("rows and experts out of order", "permuted-experts", permuted_experts.BY_WEIGHTS)
DRIFT_TABLE = Kind("another hash table than the base's", "routing-drift", (routing_drift.TABLE,))
CHOICE = Kind("a choice worth little", "permuted-experts")
UNTRAINED = Kind("a random gate", "untrained-gate")
DEAD = Kind("dead experts", "dead-experts")
OVERLOADED = Kind("overloaded experts", "overloaded-experts")
ROUNDING = Kind("choices that rounding decides", "low-precision-routing")
BOUNDARY = Kind("an unsettled boundary", "hash-boundary", (hash_boundary.UNSETTLED, hash_boundary.JUMP))
SIZE = Kind("a branch of the wrong size", "scale-mismatch")
DRIFT_RULE = Kind("another rule than the base's", "routing-drift")
DRIFT_PARTS = Kind(
    "a bias, experts or fewer of them than the base's",
    "routing-drift",
    (drift_facts.BIAS, drift_facts.EXPERTS, drift_facts.PRUNED, drift_facts.UNTIED, drift_facts.TOGETHER),
)
DRIFT_ORDER = Kind("another order than the base's", "routing-drift", (drift_facts.RENUMBERED,))
DRIFT = Kind("another choice than the base's", "routing-drift", (routing_drift.OWN, routing_drift.UNTOLD))
DRIFT_WEIGHTS = Kind("other weights than the base's", "routing-drift", (routing_drift.WEIGHTS,))
DRIFT_INHERITED = Kind("drift from above", "routing-drift", (routing_drift.INHERITED, drift_facts.BEHIND))
WHOLE_SIZE = Kind("the size of all routed branches", "scale-mismatch", whole=True)
UNREAD = Kind("tensors that nothing reads", "unread-tensors", whole=True)
OTHER = Kind("anything else", "")

KINDS: tuple[Kind, ...] = (
    *(MISPLACED, COPIES, COPIED_ROWS, NONFINITE_BEFORE, NONFINITE_BEHIND, TABLE, TABLE_UNUSED_ROWS),
    *(FEW_LEVELS, EQUAL_ROWS, LOW_RANK, FLAT, TENSORS, TOP_ONE, OTHER_CHOICE, CONTRACT, RULE),
    *(BIAS_OFFSET, BIAS_LOST, BIAS, BIAS_ALWAYS, BIAS_ALWAYS_SEEN, BIAS_NEVER, BIAS_NEVER_SEEN),
    *(BIAS_DECIDES, BIAS_OPPOSED, LESS_EVEN, ONE_SET, NOT_BY_TOKEN, NAN, NAN_OUTPUT, FADED, EDGE, NUMERICS, ROWS),
    *(ORDER, DRIFT_TABLE, CHOICE, UNTRAINED, DEAD, OVERLOADED, ROUNDING, SIZE, BOUNDARY),
    *(DRIFT_RULE, DRIFT_PARTS, DRIFT_ORDER, DRIFT, DRIFT_WEIGHTS, DRIFT_INHERITED, WHOLE_SIZE, UNREAD, OTHER),
)
"""The strict order: at one router a finding is caused by findings of earlier kinds only."""

RANK: dict[Kind, int] = {kind: place for place, kind in enumerate(KINDS)}
_BY_CAUSE = {(kind.detector, kind.whole, cause): kind for kind in KINDS for cause in kind.causes}
_BY_DETECTOR = {(kind.detector, kind.whole): kind for kind in KINDS if not kind.causes}


def kind_of(found: Finding) -> Kind:
    """Return the kind of a finding: the one that names its cause, else the one for the rest of its detector."""
    of = (found.detector, found.router is None)
    return _BY_CAUSE.get((*of, found.cause)) or _BY_DETECTOR.get(of, OTHER)
