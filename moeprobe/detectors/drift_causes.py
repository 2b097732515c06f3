"""Drift travels down: what a changed layer hands on makes the gates behind it choose otherwise."""

from moeprobe.detectors import routing_drift
from moeprobe.findings.finding import Finding


def drift_from_above(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A gate that would still choose as the base's, given the same inputs, follows the first layer that drifted."""
    drifted = root.detector == "routing-drift" and found.detector == "routing-drift"
    return drifted and found.cause == routing_drift.INHERITED and depth[root.router] < depth[found.router]
