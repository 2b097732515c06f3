"""One root cause, one finding: findings that another one explains are marked as its consequences.

A consequence keeps its place in the report under the router that it ``follows``, and becomes an info where its
root cause is at least as severe, so that nothing is counted twice and nothing severe is lost. The verdicts of
the checks stay as they were.
"""

from collections.abc import Callable, Iterable

from moeprobe.detectors import bias_runaway, flatness, scale_mismatch, sqrt_nan
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import SEVERITIES, Finding

Explains = Callable[[Finding, Finding, dict[str | None, int]], bool]


def trace_causes(findings: list[Finding], evidence: Evidence) -> list[Finding]:
    """Mark consequences and sort: worst first, root causes before consequences, earliest layer first."""
    depth: dict[str | None, int] = {router.router.path: i for i, router in enumerate(evidence.routers)}
    ordered = sorted(findings, key=lambda found: depth.get(found.router, -1))
    traced = [_follow(found, ordered, depth) for found in ordered]
    return sorted(traced, key=lambda f: (SEVERITIES.index(f.severity), f.follows is not None))


def _follow(found: Finding, all_findings: Iterable[Finding], depth: dict[str | None, int]) -> Finding:
    roots = [other for other in all_findings if other is not found and _explains(other, found, depth)]
    if not roots:
        return found
    root = roots[0]
    as_severe = SEVERITIES.index(root.severity) <= SEVERITIES.index(found.severity)
    severity = "info" if as_severe else found.severity
    return found.model_copy(update={"follows": root.router, "severity": severity})


def _explains(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    if root.severity == "info":
        return False
    return any(rule(root, found, depth) for rule in _RULES)


def _flat_so_the_bias_decides(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Where no expert is preferred, whatever bias there is decides."""
    decided = found.cause == bias_runaway.DECIDES or found.cause.startswith(bias_runaway.SETTLED_ON_PROBE)
    flat = root.detector == "flat-scores" and root.cause not in (
        flatness.BIAS_OUTWEIGHS,
        flatness.NOT_BY_TOKEN,
        flatness.NONFINITE_ROWS,
    )
    return flat and decided and root.router == found.router


def _bias_so_one_set(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Scores that differ but are outweighed: the bias is the cause of one set for all tokens."""
    outweighed = found.detector == "flat-scores" and found.cause == flatness.BIAS_OUTWEIGHS
    return root.detector == "bias-runaway" and outweighed and root.router == found.router


def _not_finite_downstream(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """NaN travels down: only the earliest layer with non-finite values is a root cause."""
    if found.detector != "sqrt-nan" or found.cause not in sqrt_nan.NONFINITE_CAUSES:
        return False
    if root.cause == flatness.NONFINITE_ROWS:
        return depth[root.router] <= depth[found.router]
    spreads = root.detector == "sqrt-nan" and root.cause in sqrt_nan.NONFINITE_CAUSES
    return spreads and depth[root.router] < depth[found.router]


def _lost_in_all_layers(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """One conversion loses the bias of all layers, one config value scales all of them: the first stands for all."""
    shared = (bias_runaway.CONSTANT, scale_mismatch.FACTOR, scale_mismatch.UNNORMALISED, scale_mismatch.NORMALISED)
    same = root.cause == found.cause and root.detector == found.detector
    return same and found.cause in shared and depth[root.router] < depth[found.router]


def _loss_of_the_whole_model(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A wrong size that was found in a router or in the config explains the loss of the whole model."""
    whole = found.detector == "scale-mismatch" and found.router is None
    wrong = root.detector == "scale-mismatch" and root.router is not None and root.severity == "error"
    sizes = (scale_mismatch.TOO_LARGE, scale_mismatch.TOO_SMALL)
    return whole and wrong and (root.cause == found.cause or root.cause not in sizes)


def _behind_a_wrong_size(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A branch of a wrong size swells or starves the residual stream, which later layers are compared with."""
    wrong = root.detector == "scale-mismatch" and root.router is not None and root.severity == "error"
    compared = found.detector == "scale-mismatch" and found.router is not None and found.severity == "warning"
    return wrong and compared and depth[root.router] < depth[found.router]


def _no_choice_to_test(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A choice is worth nothing where it is flat or runs away, or reads what an earlier layer has spoilt."""
    if found.detector != "permuted-experts":
        return False
    same = root.detector == found.detector
    upstream = (same or root.severity == "error") and depth.get(root.router, -1) < depth[found.router]
    return upstream or (root.router == found.router and not same)


_RULES: tuple[Explains, ...] = (
    _flat_so_the_bias_decides,
    _bias_so_one_set,
    _not_finite_downstream,
    _lost_in_all_layers,
    _loss_of_the_whole_model,
    _behind_a_wrong_size,
    _no_choice_to_test,
)
