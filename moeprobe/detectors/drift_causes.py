"""Drift travels down: what a changed layer hands on makes the gates behind it choose otherwise."""

from moeprobe.detectors import drift_facts, routing_drift
from moeprobe.findings.finding import Finding


def drift_from_above(root: Finding, found: Finding, depth: dict[str | None, int]) -> bool:
    """A gate that would still choose as the base's, given the same inputs, follows the first layer that drifted.

    One config changes the rule of all layers: the first stands for all.
    """
    drifted = root.detector == "routing-drift" and found.detector == "routing-drift"
    same_rule = found.cause.startswith(drift_facts.RULE) and root.cause == found.cause
    handed_down = found.cause in (routing_drift.INHERITED, drift_facts.BEHIND) or same_rule
    return drifted and handed_down and depth[root.router] < depth[found.router]
