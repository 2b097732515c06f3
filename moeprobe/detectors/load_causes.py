"""Which findings of other detectors explain a dead or an overloaded expert of the same router."""

from moeprobe.detectors import (
    bias_runaway,
    dead_experts,
    hash_boundary,
    hash_table,
    nonfinite_tensors,
    sqrt_nan,
    tensor_sizes,
)
from moeprobe.findings.finding import Finding

LOAD_DETECTORS = ("dead-experts", "overloaded-experts")

_HARMLESS = {
    # A common offset moves no expert past another; what sums fade to is decided after the choice; a boundary
    # proxy and the place of a hash layer say nothing about who is chosen.
    bias_runaway.OFFSET_16BIT,
    sqrt_nan.FADED,
    *nonfinite_tensors.BEHIND_CHOICE,
    hash_boundary.UNSETTLED,
    hash_boundary.JUMP,
    hash_boundary.MISPLACED,
    # A token id without a row stops the forward pass, and no text reaches a spare one.
    hash_table.ROWS,
    hash_table.SPARE_ONLY,
}
_ROOTS = ("flat-scores", "bias-runaway", "sqrt-nan", "hash-boundary")


def uneven_at_a_broken_router(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A router that is broken chooses whom it chooses because of that.

    A fault that names the experts that it makes unreachable explains only those. Faults of other layers
    explain no load: what a NaN does downstream shows there as that layer's own finding, which follows it.
    """
    broken = root.detector in _ROOTS or root.cause == tensor_sizes.ROWS
    if found.detector not in LOAD_DETECTORS or not broken or root.router != found.router:
        return False
    if root.cause in _HARMLESS:
        return False
    unreachable = root.cause == hash_table.UNREACHABLE or root.cause.endswith(bias_runaway.NEVER)
    if found.cause == dead_experts.NEVER_USED and unreachable:
        return set(found.experts) <= set(root.experts)
    return True
