"""Expected: the score function that a router should follow, and who says so.

The config's word counts first. Where it names none, transformers' own class does, as it was measured
(``Router.reference``); where there is no such class, the other routers of the same class in the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moeprobe.detectors.kin import declared_function, usual_functions
from moeprobe.findings.evidence import RouterEvidence

REPRODUCED = 0.99
"""Share of tokens whose choice the fitted rule of transformers' class must reproduce to count as known."""


@dataclass(frozen=True)
class Expected:
    """Score functions of which one is right (empty where nothing is known), and ``who`` says so, in words."""

    functions: frozenset[str]
    who: str = ""
    voted: bool = False
    """Whether only the other routers say so."""


def expected(evidence: RouterEvidence, kin: Sequence[RouterEvidence]) -> Expected:
    """What is expected of a router whose ``kin`` are the other ones of its class."""
    if declared := declared_function(evidence):
        return Expected(frozenset({declared}), f"the config names {declared}")
    reference = evidence.router.reference
    if reference is not None and reference.explaining:
        follows = " or ".join(sorted(reference.explaining))
        return Expected(frozenset(reference.explaining), f"transformers' own {reference.name} follows {follows}")
    usual = usual_functions(kin)
    return Expected(frozenset(usual), f"the other layers follow {' or '.join(sorted(usual))}", voted=True)


def knows_choice(evidence: RouterEvidence) -> bool:
    """Whether config or class say by which rule a router chooses."""
    reference = evidence.router.reference
    reproduced = reference is not None and (reference.selection_agreement or 0.0) >= REPRODUCED
    return declared_function(evidence) is not None or reproduced
