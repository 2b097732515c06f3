"""Outcomes of a check on the synthetic results."""

from moeprobe.findings.baseline import Comparison
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict


def failed(result: Result) -> Verdict:
    """Every error fails."""
    failing = [one for one in result.findings if one.severity == "error"]
    return Verdict(exit_code=1, fail_on="error", reason=f"{len(failing)} findings of severity error", failing=failing)


def against(result: Result) -> Verdict:
    """The first error was known, the other problems are new, and one finding of the baseline is gone."""
    first, *new = (one for one in result.findings if one.severity == "error")
    gone = first.model_copy(update={"message": "Layer 9 had no tokens.", "cause": "gone", "layer": 9})
    return Verdict(
        exit_code=1, fail_on="error", reason="1 new finding of severity error", failing=new,
        new=[one for one in result.findings if one != first], known=[first], fixed=[gone],
    )  # fmt: skip


def passed() -> Verdict:
    return Verdict(exit_code=0, fail_on="warning", reason="no findings of severity warning or above", failing=[])


def compared(result: Result) -> Result:
    """The result with the comparison that ``against`` judges."""
    judged = against(result)
    stands = Comparison(
        model="base", revision=None, started="2026-01-01", new=[one.fingerprint for one in judged.new or []],
        known=[one.fingerprint for one in judged.known or []], risen={}, fixed=judged.fixed or [], unjudged=[],
        lost=[], remarks=[],
    )  # fmt: skip
    return result.model_copy(update={"baseline": stands})
