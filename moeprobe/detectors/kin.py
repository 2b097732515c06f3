"""Kin: the other routers of the same class, whose rule a router is expected to follow."""

from collections import Counter
from collections.abc import Sequence

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.router import Groups

_KNOWN = ("softmax", "sigmoid", "sqrtsoftplus")


def kin_of(router: RouterEvidence, everyone: Sequence[RouterEvidence]) -> list[RouterEvidence]:
    """Return the other routers of this class and kind whose weights are explained by their plain scores."""
    return [
        other
        for other in everyone
        if other.router.path != router.router.path
        and (other.router.module, other.router.kind) == (router.router.module, router.router.kind)
        and other.router.explaining
        and not other.router.biased_weights
        and other.router.verified
    ]


def declared_function(router: RouterEvidence) -> str | None:
    """Return the score function that the config names, None where it names none that is known here."""
    declared = router.router.declared.score_function
    return declared if declared in _KNOWN else None


def usual_functions(kin: Sequence[RouterEvidence]) -> set[str]:
    """Return the score functions that explain more than half of the kin."""
    votes = Counter(function for other in kin for function in other.router.explaining)
    return {function for function, count in votes.items() if 2 * count > len(kin)}


def usual_groups(kin: Sequence[RouterEvidence]) -> Groups | None:
    """Return the groups that more than half of the kin (two at least) select by."""
    grouped = [other.router.groups for other in kin if other.router.groups]
    return grouped[0] if len(grouped) > 1 and 2 * len(grouped) > len(kin) else None
