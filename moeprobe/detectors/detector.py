"""Detector: evidence and limits in, verdicts out.

To add one, write a file with a module docstring under the fixed headings (it is the documentation), a
class of limits and a class of the detector, and name it in ``registry.py``.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from moeprobe.detectors.case import Case, L
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import Check, Finding

HEADINGS = (
    "What it finds",
    "Why it matters",
    "How it is measured",
    "Limits",
    "Known false alarms",
    "What to do",
    "References",
)
"""Headings of a detector's documentation, in this order."""


@dataclass(frozen=True)
class Judgement:
    """What detectors said about one body of evidence."""

    checks: list[Check]
    findings: list[Finding]

    @classmethod
    def of(cls, cases: Sequence[Case[Any]]) -> "Judgement":
        """Collect the checks and findings of decided cases."""
        return cls([case.check() for case in cases], [found for case in cases for found in case.findings])


class Detector(ABC, Generic[L]):
    """One kind of fault. A pure function: it sees plain numbers and never a tensor or a model."""

    name: ClassVar[str]
    code: ClassVar[str]
    Limits: type[L]

    @abstractmethod
    def judge(self, evidence: Evidence, limits: L) -> Judgement:
        """One check per router, and the findings."""

    def open(self, evidence: Evidence, limits: L) -> list[Case[L]]:
        """Return one undecided case per router."""
        probed = evidence.probe is not None
        in_layer = Counter(layer for layer, _ in {(one.router.layer, one.router.path) for one in evidence.routers})
        return [
            Case(self.name, self.code, limits, one, probed, in_layer[one.router.layer] == 1) for one in evidence.routers
        ]

    def open_model(self, evidence: Evidence, limits: L) -> Case[L]:
        """Return an undecided case about the whole model."""
        return Case(self.name, self.code, limits, None, evidence.probe is not None)
