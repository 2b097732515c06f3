"""One root cause, one finding: findings that another one explains are marked as its consequences.

A consequence keeps its place in the report under the router that it ``follows``, and becomes an info where its
root cause is at least as severe, so that nothing is counted twice and nothing severe is lost. The verdicts of
the checks stay as they were.

What can follow what is a table (``cause_relations.py``). Whatever it says, a consequence lies deeper in the model than
its cause, or is of a later kind at the same place, so no chain of causes comes back to where it began.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

from moeprobe.detectors.case import Limits
from moeprobe.detectors.cause_kinds import MISPLACED, RANK, WHOLE_SIZE, Kind, kind_of
from moeprobe.detectors.cause_refuted import Scene
from moeprobe.detectors.cause_relation import Relation, Where
from moeprobe.detectors.cause_relations import RELATIONS
from moeprobe.detectors.permuted_experts import PermutedExpertsLimits
from moeprobe.detectors.scale_curve import CurveLimits
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import SEVERITIES, WHOLE_MODEL, Finding

_JOINING: dict[tuple[Kind, Kind], list[Relation]] = defaultdict(list)
for _relation in RELATIONS:
    for _pair in product(_relation.causes, _relation.consequences):
        _JOINING[_pair].append(_relation)


def trace_causes(
    findings: Sequence[Finding], evidence: Evidence, limits: Mapping[str, Limits] | None = None
) -> list[Finding]:
    """Mark consequences and sort: worst first, root causes before consequences, earliest layer first.

    Args:
        findings: what the detectors said, with the severities that they gave.
        evidence: what it was said of.
        limits: the limits of the detectors by their names, for what the loss tests clear; the defaults where none.

    """
    scene = _scene(findings, evidence, limits or {})
    by_depth = sorted(findings, key=lambda found: scene.depth.get(found.router, -1))
    order = {id(found): precedence(found, scene) for found in findings}
    roots: dict[int, Finding] = {}
    # Causes come before their consequences in this order, so the root of a cause is known when it is needed.
    for found in sorted(by_depth, key=lambda one: order[id(one)]):
        causes = [root for root in by_depth if order[id(root)] < order[id(found)] and explains(root, found, scene)]
        first = min(causes, key=lambda one: _first_blamed(one, scene), default=None)
        roots[id(found)] = found if first is None else roots[id(first)]
    traced = [_follow(found, roots[id(found)]) for found in by_depth]
    return sorted(traced, key=lambda f: (SEVERITIES.index(f.severity), f.follows is not None))


def _first_blamed(root: Finding, scene: Scene) -> tuple[object, ...]:
    """Of several causes the earliest in the model is named, of these the worst, of these the first kind."""
    place = scene.depth.get(root.router, -1)
    return place, SEVERITIES.index(root.severity), RANK[kind_of(root)], root.fingerprint


def precedence(found: Finding, scene: Scene) -> tuple[float, int]:
    """Return the place of a finding, then the rank of its kind: a cause comes strictly before its consequences.

    What is about the whole model comes before all routers where it is a cause, after all of them elsewhere.
    """
    kind = kind_of(found)
    if kind is MISPLACED or (kind is WHOLE_SIZE and scene.whole_size_stands):
        return -1, RANK[kind]
    return scene.depth.get(found.router, math.inf), RANK[kind]


def explains(root: Finding, found: Finding, scene: Scene) -> bool:
    """Whether a relation of the table makes ``found`` a consequence of ``root``; an info explains nothing."""
    if root.severity == "info" or root is found:
        return False
    relations = _JOINING.get((kind_of(root), kind_of(found)), ())
    return any(_holds(relation, root, found, scene) for relation in relations)


def _holds(relation: Relation, root: Finding, found: Finding, scene: Scene) -> bool:
    if not (_in_place(relation.where, root, found, scene) and relation.only(root, found)):
        return False
    return not relation.refuted_by(scene, root, found)


def _in_place(where: Where, root: Finding, found: Finding, scene: Scene) -> bool:
    if where is Where.WHOLE:
        return found.router is None and root.router is not None
    if where is Where.EVERYWHERE:
        return found.router is not None
    if root.router is None or found.router is None:
        return False
    return root.router == found.router if where is Where.HERE else scene.depth[root.router] < scene.depth[found.router]


def _scene(findings: Sequence[Finding], evidence: Evidence, limits: Mapping[str, Limits]) -> Scene:
    order, size = limits.get("permuted-experts"), limits.get("scale-mismatch")
    return Scene(
        evidence,
        tuple(findings),
        order if isinstance(order, PermutedExpertsLimits) else PermutedExpertsLimits(),
        size if isinstance(size, CurveLimits) else CurveLimits(),
    )


def _follow(found: Finding, root: Finding) -> Finding:
    if root is found:
        return found
    as_severe = SEVERITIES.index(root.severity) <= SEVERITIES.index(found.severity)
    severity = "info" if as_severe else found.severity
    return found.model_copy(update={"follows": root.router or WHOLE_MODEL, "severity": severity})
