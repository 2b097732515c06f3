"""A hash table that sends many token ids to one expert."""

from typing import TYPE_CHECKING

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import number, percent

if TYPE_CHECKING:
    from moeprobe.detectors.hash_boundary import HashBoundaryLimits

SKEWED = "the hash table favours an expert"
_SIGMAS = 6


def judge_skew(case: "Case[HashBoundaryLimits]") -> None:
    """Compare the rows that name the busiest expert with the share that all would have; damaged tables have said so."""
    table = case.evidence.weights.hash_table if case.evidence.weights else None
    if table is None or table.busiest is None or any(found.severity == "error" for found in case.findings):
        return
    router, limits = case.evidence.router, case.limits
    even = router.top_k / router.experts
    if not 0 < even < 1 or table.rows == 0:
        return
    share = table.busiest.share
    excess = (share - even) / (1 - even)
    # A table that draws its experts at random is uneven by chance.
    chance = _SIGMAS * (even * (1 - even) / table.rows) ** 0.5
    if excess <= limits.skew_warning or share - even <= chance:
        return
    severe = excess > limits.skew_error
    case.find(
        "error" if severe else "warning",
        f"tid2eid sends {percent(share)} of the {number(table.rows)} token ids to expert {table.busiest.expert}, where "
        f"an even table sends {percent(even)} to each ({number(excess)} of the way to all of them, the limit is "
        f"{number(limits.skew_error if severe else limits.skew_warning)})",
        quantity="excess of the busiest expert over an even share",
        measured=excess,
        limit="skew_error" if severe else "skew_warning",
        cause=SKEWED,
        remedy="Copy tid2eid from the base checkpoint",
        experts=[table.busiest.expert],
    )
