"""Bars of routing-drift: what of an interval over documents counts as beyond a limit, and beyond chance."""

from moeprobe.findings.drift import LoadShift
from moeprobe.findings.numbers import Interval
from moeprobe.findings.router import Router


def beyond_chance(kept: Interval, router: Router) -> Interval | None:
    """The share of kept experts where 0 is what independent choices share, k / E, and 1 the same choice.

    None where every token uses every expert.
    """
    chance = router.top_k / router.score_columns
    if chance >= 1:
        return None
    values = {
        name: None if (value := getattr(kept, name)) is None else (value - chance) / (1 - chance)
        for name in ("value", "low", "high")
    }
    return Interval.model_validate(values)


def unexplained(distance: Interval, overlap: Interval) -> Interval:
    """The L1 distance without that of changed choices: each takes weight from one expert and gives it to another."""
    changed = 2 * (1 - overlap.value)
    ends = {end: getattr(distance, end) for end in ("value", "low", "high")}
    return Interval.model_validate({end: None if value is None else value - changed for end, value in ends.items()})


def far(shift: LoadShift, bar: float) -> bool:
    """Whether a load changed by the factor ``bar`` or more, in either direction."""
    return beyond(shift.ratio, bar) or beyond(shift.ratio, 1 / bar, below=True)


def beyond(measured: Interval, bar: float, *, below: bool = False) -> bool:
    """Whether the value and its whole interval lie beyond the bar; a bar of equality is crossed."""
    ends = [end for end in (measured.low, measured.high) if end is not None]
    return all(value <= bar if below else value >= bar for value in (measured.value, *ends))
