"""Relation: one row of the table of causes, and the conditions that such a row can set."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from moeprobe.detectors import hash_table, permuted_experts, scale_mismatch
from moeprobe.detectors.cause_kinds import Kind
from moeprobe.detectors.cause_refuted import Scene
from moeprobe.findings.finding import Finding

Condition = Callable[[Finding, Finding], bool]
Refutation = Callable[[Scene, Finding, Finding], bool]


class Where(Enum):
    """Where the consequence of a finding shows."""

    HERE = "at the same router"
    LATER = "at later routers, while no layer in between is cleared of it"
    WHOLE = "in the whole model"
    EVERYWHERE = "at every router, from the whole model"


def always(*_findings: Finding) -> bool:
    """Whatever the findings are."""
    return True


def never_refuted(*_given: object) -> bool:
    """No measurement clears it."""
    return False


@dataclass(frozen=True)
class Relation:
    """``says``: the mechanism. ``only``: a further condition. ``refuted_by``: the consequence stands on its own."""

    says: str
    causes: tuple[Kind, ...]
    consequences: tuple[Kind, ...]
    where: Where
    only: Condition = always
    refuted_by: Refutation = never_refuted


def severe(root: Finding, _found: Finding) -> bool:
    """Errors alone explain."""
    return root.severity == "error"


def same_cause(root: Finding, found: Finding) -> bool:
    """One mistake in several places."""
    return root.cause == found.cause


def severe_and_mild(root: Finding, found: Finding) -> bool:
    """An error explains warnings."""
    return root.severity == "error" and found.severity == "warning"


def same_direction(root: Finding, found: Finding) -> bool:
    """A branch that is too large does not make the model's branches too small."""
    sizes = (scale_mismatch.TOO_LARGE, scale_mismatch.TOO_SMALL)
    return root.severity == "error" and (root.cause == found.cause or root.cause not in sizes)


def other_order(root: Finding, _found: Finding) -> bool:
    """Rows that fit the experts in another order were trained."""
    return root.cause != permuted_experts.UNTIED


def untied(_root: Finding, found: Finding) -> bool:
    """Rows that were damaged have no tie to their experts, and are in no other order either."""
    return found.cause == permuted_experts.UNTIED


def among_the_copies(root: Finding, found: Finding) -> bool:
    """Rows alone are another fault than the rows of copied experts."""
    return not root.experts or (bool(found.experts) and set(found.experts) <= set(root.experts))


def same_experts(root: Finding, found: Finding) -> bool:
    """A fault that names the experts that it makes unreachable explains only those."""
    return set(found.experts) <= set(root.experts)


def not_unreachable(root: Finding, _found: Finding) -> bool:
    """Experts in no row of a table are told apart from the rest."""
    return root.cause != hash_table.UNREACHABLE


def unreachable(root: Finding, found: Finding) -> bool:
    """The dead experts are those that the table leaves out."""
    return root.cause == hash_table.UNREACHABLE and same_experts(root, found)
