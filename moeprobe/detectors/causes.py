"""One root cause, one finding: findings that another one explains are marked as its consequences.

A consequence keeps its place in the report under the router that it ``follows``, and becomes an info where its
root cause is at least as severe, so that nothing is counted twice and nothing severe is lost. The verdicts of
the checks stay as they were.
"""

from collections.abc import Callable

from moeprobe.detectors import (
    bias_balance,
    bias_runaway,
    broken_contract,
    drift_causes,
    duplicate_experts,
    flatness,
    hash_boundary,
    load_causes,
    low_precision,
    nonfinite_tensors,
    permuted_experts,
    scale_mismatch,
    size_causes,
    sqrt_nan,
    tensor_sizes,
    top_one,
    unread_tensors,
)
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import SEVERITIES, WHOLE_MODEL, Finding

Explains = Callable[[Finding, Finding, dict[str | None, int]], bool]


def trace_causes(findings: list[Finding], evidence: Evidence) -> list[Finding]:
    """Mark consequences and sort: worst first, root causes before consequences, earliest layer first."""
    depth: dict[str | None, int] = {router.router.path: i for i, router in enumerate(evidence.routers)}
    ordered = sorted(findings, key=lambda found: depth.get(found.router, -1))
    direct = [_cause(place, ordered, depth) for place in range(len(ordered))]
    traced = [_follow(found, ordered[_root(place, direct)]) for place, found in enumerate(ordered)]
    return sorted(traced, key=lambda f: (SEVERITIES.index(f.severity), f.follows is not None))


def _cause(place: int, ordered: list[Finding], depth: dict[str | None, int]) -> int | None:
    """Place of the earliest finding that explains this one, None where there is none."""
    found = ordered[place]
    causes = (other for other, root in enumerate(ordered) if other != place and _explains(root, found, depth))
    return next(causes, None)


def _root(place: int, direct: list[int | None]) -> int:
    """Place of the root cause: a consequence of a consequence follows what started both."""
    seen = {place}
    while (cause := direct[place]) is not None and cause not in seen:
        seen.add(cause)
        place = cause
    return place


def _follow(found: Finding, root: Finding) -> Finding:
    if root is found:
        return found
    as_severe = SEVERITIES.index(root.severity) <= SEVERITIES.index(found.severity)
    severity = "info" if as_severe else found.severity
    return found.model_copy(update={"follows": root.router or WHOLE_MODEL, "severity": severity})


def _explains(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    # What no model reads has no effect on what was measured.
    if root.severity == "info" or root.detector == unread_tensors.UnreadTensors.name:
        return False
    return any(rule(root, found, depth) for rule in _RULES)


def _flat_so_the_bias_decides(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Where no expert is preferred, whatever bias there is decides, and makes the load as uneven as itself."""
    decided = found.cause in (bias_runaway.DECIDES, bias_balance.UNBALANCES)
    decided |= found.cause.startswith(bias_runaway.SETTLED_ON_PROBE)
    flat = root.detector == "flat-scores" and root.cause not in (
        flatness.BIAS_OUTWEIGHS,
        flatness.NOT_BY_TOKEN,
    )
    return flat and decided and root.router == found.router


def _bias_so_one_set(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Scores that differ but are outweighed: the bias is the cause of one set for all tokens."""
    outweighed = found.detector == "flat-scores" and found.cause == flatness.BIAS_OUTWEIGHS
    return root.detector == "bias-runaway" and outweighed and root.router == found.router


def _bias_so_less_even(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A bias that settles the choice, or was damaged, makes the load less even than no bias would."""
    decides = root.cause == bias_runaway.DECIDES or root.cause.startswith(bias_runaway.CERTAIN)
    decides |= root.cause == bias_balance.OPPOSED
    broken = root.detector == "bias-runaway" and (root.severity == "error" or decides)
    same = broken and root.router == found.router
    # Favourites push the others out: the same fault from the other side.
    pushed_out = found.cause.endswith(bias_runaway.NEVER) and root.cause.endswith(bias_runaway.ALWAYS)
    return same and (found.cause == bias_balance.UNBALANCES or pushed_out)


def _not_finite_downstream(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """NaN travels down: only the earliest layer with non-finite values is a root cause."""
    if found.detector != "sqrt-nan" or found.cause not in sqrt_nan.NONFINITE_CAUSES:
        return False
    if root.detector != "sqrt-nan":
        return False
    here, above = depth[root.router] == depth[found.router], depth[root.router] < depth[found.router]
    if root.cause in nonfinite_tensors.BEHIND_CHOICE:
        return above or (here and found.cause == sqrt_nan.NONFINITE_OUTPUT)
    tensor = root.cause in nonfinite_tensors.BEFORE_LOGITS
    return (here and tensor) or (above and (tensor or root.cause in sqrt_nan.NONFINITE_CAUSES))


def _lost_in_all_layers(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """One conversion loses the bias of all layers, one config value scales all of them: the first stands for all."""
    shared = (
        bias_runaway.CONSTANT,
        scale_mismatch.FACTOR,
        scale_mismatch.UNNORMALISED,
        scale_mismatch.NORMALISED,
        *broken_contract.IN_CODE,
    )
    same = root.cause == found.cause and root.detector == found.detector
    return same and found.cause in shared and depth[root.router] < depth[found.router]


def _loss_of_the_whole_model(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A wrong size that was found in a router or in the config explains the loss of the whole model."""
    whole = found.detector == "scale-mismatch" and found.router is None
    wrong = root.detector == "scale-mismatch" and root.router is not None and root.severity == "error"
    sizes = (scale_mismatch.TOO_LARGE, scale_mismatch.TOO_SMALL)
    return whole and wrong and (root.cause == found.cause or root.cause not in sizes)


def _broken_rule(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Other weights or another choice than the rule's show in their sums, in the load and in a recomputation."""
    if root.detector != "broken-contract" or root.router != found.router:
        return False
    sums = found.detector == "scale-mismatch" and found.cause in (
        scale_mismatch.UNEXPLAINED,
        scale_mismatch.NORMALISED,
        scale_mismatch.UNNORMALISED,
        scale_mismatch.FACTOR,
    )
    # A constant weight is as right as the rule, and leaves the choice to the logits.
    rounding = found.cause == low_precision.ROUNDING and root.cause != top_one.CONSTANT
    return sums or rounding


def _never_trained(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A router that no gradient reaches stays as it was initialised."""
    same = root.router == found.router
    return same and root.cause == top_one.CONSTANT and found.detector == "untrained-gate"


def _rounding_of_flat_scores(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Where hardly anybody is preferred, rounding decides."""
    flat = root.detector == "flat-scores" and root.router == found.router
    return flat and found.cause == low_precision.ROUNDING


def _copied_with_their_rows(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Experts that were copied with their gate rows are one fault; rows alone are another."""
    copies = root.cause in (duplicate_experts.IDENTICAL, duplicate_experts.SIMILAR) and root.router == found.router
    rows = found.cause == flatness.EQUAL_ROWS and found.detector == "flat-scores"
    return copies and rows and (not root.experts or (bool(found.experts) and set(found.experts) <= set(root.experts)))


def _behind_a_wrong_size(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A branch of a wrong size swells or starves the residual stream, which later layers are compared with."""
    wrong = root.detector == "scale-mismatch" and root.router is not None and root.severity == "error"
    compared = found.detector == "scale-mismatch" and found.router is not None and found.severity == "warning"
    compared &= found.cause not in tensor_sizes.TENSORS
    return wrong and compared and depth[root.router] < depth[found.router]


def _no_choice_to_test(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A choice is worth nothing where it is flat or runs away, or reads what an earlier layer has spoilt.

    A hash layer that changed places with a learned one spoils both places. What the weights show follows nothing
    but copies and rows that are broken themselves.
    """
    if found.detector != "permuted-experts" or root is found:
        return False
    here = root.router == found.router and root.detector not in (found.detector, "untrained-gate")
    if found.cause in permuted_experts.BY_WEIGHTS:
        return here and root.detector in ("duplicate-experts", "flat-scores")
    upstream = depth.get(root.router, -1) < depth[found.router]
    return upstream or here or root.cause == hash_boundary.MISPLACED


_RULES: tuple[Explains, ...] = (
    _flat_so_the_bias_decides,
    _bias_so_one_set,
    _bias_so_less_even,
    _not_finite_downstream,
    _lost_in_all_layers,
    _loss_of_the_whole_model,
    _broken_rule,
    _never_trained,
    _rounding_of_flat_scores,
    _copied_with_their_rows,
    load_causes.uneven_at_a_broken_router,
    size_causes.sized_by_another_fault,
    size_causes.sized_by_a_tensor,
    size_causes.unsettled_by_another_fault,
    size_causes.one_underflow,
    _behind_a_wrong_size,
    _no_choice_to_test,
    drift_causes.drift_from_above,
)
