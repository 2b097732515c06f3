"""Scoring: what an analysis said, against what was planted."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.planting import FAULTS, Fault
from moeprobe.detectors.registry import DETECTORS

BY_NAME: dict[str, Fault] = {fault.full_name: fault for fault in FAULTS}
KNOWN = {detector.name for detector in DETECTORS}


@dataclass(frozen=True)
class Case:
    """What is planted where: one line of the benchmark's plan. ``fault`` is False for a look-alike."""

    fault: bool
    name: str
    checkpoint: str
    dtype: str
    strength: float
    seed: int
    tokens: int
    loss: bool

    @property
    def key(self) -> str:
        """Name of the case; nothing else decides what happens in it."""
        what = f"{self.strength:g}/{self.seed}" if self.fault else ("loss" if self.loss else "no loss")
        return f"{self.name}/{self.checkpoint}/{self.dtype}/{self.tokens}/{what}"


@dataclass(frozen=True)
class Scored:
    """One case and what was said about it."""

    case: Case
    said: dict[str, Any]

    @property
    def fault(self) -> Fault:
        """The fault that was planted."""
        return BY_NAME[self.case.name]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Errors and warnings."""
        return [f for f in self.said["findings"] if f["severity"] != "info"]

    @property
    def roots(self) -> list[dict[str, Any]]:
        """Errors and warnings that no other finding explains."""
        return [f for f in self.problems if f["root"]]

    @property
    def demanded(self) -> bool:
        """Whether the detector's definition demands a finding."""
        return bool(self.said["demanded"]) and self.fault.detector in KNOWN

    @cached_property
    def hits(self) -> list[dict[str, Any]]:
        """Root findings of the right detector at the right layer."""
        return [f for f in self.roots if f["detector"] == self.fault.detector and f["layer"] in self.said["layers"]]

    @property
    def caught(self) -> bool:
        """Whether the right detector said anything, or the analysis refused and said why."""
        return bool(self.said["refused"]) or any(f["detector"] == self.fault.detector for f in self.problems)

    @property
    def layer_right(self) -> bool:
        """Whether the right detector names the right layer."""
        return bool(self.hits) or any(f".{layer}." in self.said["refused"] for layer in self.said["layers"])

    @property
    def cause_right(self) -> bool:
        """Whether the finding's cause is the planted one."""
        causes = [f["cause"] for f in self.hits] + ([self.said["refused"]] if self.said["refused"] else [])
        return any(re.search(self.fault.cause, cause) for cause in causes)

    @cached_property
    def blamed(self) -> list[dict[str, Any]]:
        """Root findings that blame another detector's fault or another layer."""
        right = (self.fault.detector, *self.fault.also)
        return [f for f in self.roots if f["detector"] not in right or f["layer"] not in self.said["layers"]]

    @property
    def repeated(self) -> int:
        """Root findings that say the same thing again."""
        return max(0, len(self.hits) - 1)

    @property
    def wrong(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        found = []
        if self.said["crashed"]:
            found.append(f"the analysis crashed: {self.said['crashed']}")
        if not self.case.fault:
            return found + [f"{f['severity']} {f['detector']}: {f['message']}" for f in self.problems]
        if self.demanded and not self.said["crashed"]:
            if not self.caught:
                found.append("missed")
            elif not self.layer_right:
                found.append("caught, but not at the layer")
        if self.hits and not self.cause_right:
            found.append(f"the cause named is “{self.hits[0]['cause']}”")
        found += [f"also blamed: {f['severity']} {f['detector']}: {f['message']}" for f in self.blamed]
        if self.repeated:
            found.append("said more than once: " + "; ".join(f["cause"] for f in self.hits))
        return found


def share(rows: list[bool]) -> str:
    """``93 %``, or a dash where there is nothing to take a share of."""
    return f"{100 * sum(rows) / len(rows):.3g} %" if rows else "–"
