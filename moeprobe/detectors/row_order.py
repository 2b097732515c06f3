"""Which gate rows stand beside the wrong experts, as the weights alone say (see permuted-experts)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from pydantic import Field

from moeprobe.detectors.case import Limits
from moeprobe.detectors.randomness import distance
from moeprobe.detectors.wording import number, percent
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.weights import Exchange, RowTie

_DEVIATIONS = 3
"""Standard deviations of the logarithm below its mean where the tie of one more layer is still expected."""
_LEAST_DEVIATION, _OF_TWO = 0.2, 0.5
"""Deviation (logarithm) that ties have at least, whatever it looks like: few layers, two above all, can be alike."""


class RowOrderLimits(Limits):
    """Bars of what the weights alone say about the order of the rows."""

    least_lead: float = Field(
        0.7, gt=0, description="Deviations a row by which an order leads; unrelated gates of 64 experts up to 0.65"
    )
    lead_of_few: float = Field(
        8, ge=0, description="Over the number of experts, added to least_lead; unrelated gates of 8 reach 1.24"
    )
    lead_where_tied: float = Field(
        0.3, ge=0, description="Added where the present order has a tie; sound layers keep 0.85 and more from there"
    )
    most_kept: float = Field(0.7, gt=0, lt=1, description="Share of the fit in the present order; sound from 0.85")
    least_gain: float = Field(
        5, gt=0, description="Deviations that exchanged rows gain each; clear sound layers below 3"
    )
    sure_gap: float = Field(3, gt=0, description="Deviations above all rivals from which a row's expert is named")
    untied: float = Field(
        2.5, gt=0, description="Standard errors up to which a layer has no tie; unrelated 0 +- 1, 0.8 % above"
    )
    least_expected: float = Field(3, gt=0, description="Standard errors that the other layers let expect at least")
    least_foreign: float = Field(
        4, gt=0, description="Standard errors of a tie to another layer's gate; unrelated up to 3.9"
    )
    random_sigmas: float = Field(4, gt=0, description="Departure of a gate from a random matrix; see untrained-gate")
    least_layers: int = Field(2, ge=2, description="Other layers with a tie that the expectation rests on")
    most_untied: float = Field(0.34, gt=0, lt=1, description="Share of layers without a tie; beyond, none is expected")


@dataclass(frozen=True)
class RowOrder:
    """What the weights of one layer say. ``partial``: some rows stand where they belong."""

    verdict: Literal["tied", "permuted", "exchanged", "swapped", "untied"]
    says: str
    quantity: str = ""
    measured: float | None = None
    limit: str | None = None
    remedy: str = ""
    experts: Sequence[int] = ()
    partial: bool = False


def row_orders(routers: Sequence[RouterEvidence], limits: RowOrderLimits) -> dict[str, RowOrder]:
    """By path, for all learned routers where the weights say anything."""
    known = ties(routers)
    found = {one.router.path: _order(one, known, limits) for one in routers if one.router.path in known}
    return {path: order for path, order in found.items() if order is not None}


def _order(one: RouterEvidence, known: dict[str, float], limits: RowOrderLimits) -> RowOrder | None:
    assert one.experts is not None
    tie, value = one.experts.tie, known[one.router.path]
    if tie is not None and is_permuted(tie, limits):
        return _permuted(tie, limits)
    if tie is not None and (moved := rings(tie, limits)):
        return _exchanged(moved, value)
    if value > limits.untied:
        return RowOrder("tied", f"{number(value)} standard errors") if tie is not None else None
    if swapped := _swapped(one, value, limits):
        return swapped
    expected = expected_tie(one.router.path, known, limits)
    return None if expected is None or expected < limits.least_expected else _untied(one, value, expected, limits)


def _permuted(tie: RowTie, limits: RowOrderLimits) -> RowOrder:
    count = len(tie.owner)
    moved = [(row, expert) for row, expert in sure_rows(tie, limits) if row != expert]
    pairs = "; ".join(f"row {row} belongs to expert {expert}" for row, expert in moved[:8])
    more = f" and {len(moved) - 8} more" if len(moved) > 8 else ""
    named = f": {pairs}{more}" if moved else ", but of no single row is the expert sure"
    return RowOrder(
        "permuted",
        f"the gate's rows have a tie of {number(tie.value)} standard errors to their experts in the present order, "
        f"which is {percent(max(tie.kept, 0))} of the fit that another order has (the limit is "
        f"{percent(limits.most_kept)}; that order leads by {number(tie.lead)} deviations a row, chance by up to 0.9)"
        f"{named}; the experts of {len(sure_rows(tie, limits))} of {count} rows are sure",
        quantity="share of the best order's fit",
        measured=max(tie.kept, 0.0),
        limit="most_kept",
        remedy="Put the rows in the order of the experts; the evidence holds the expert of every row",
        experts=sorted(expert for _, expert in moved),
        partial=tie.value > limits.untied,
    )


def _exchanged(moved: list[Exchange], value: float) -> RowOrder:
    said = "; ".join(
        ", ".join(
            f"row {row} belongs to expert {expert}"
            for row, expert in zip(ring.rows, [*ring.rows[1:], ring.rows[0]], strict=True)
        )
        for ring in moved
    )
    return RowOrder(
        "exchanged",
        f"its rows and experts belong together ({number(value)} standard errors) but for a few, which fit each other's "
        f"experts better by {number(moved[0].gain)} deviations each: {said}",
        quantity="gain of exchanged rows",
        measured=moved[0].gain,
        limit="least_gain",
        remedy="Compare these rows with the base checkpoint",
        experts=sorted(row for ring in moved for row in ring.rows),
        partial=True,
    )


def _swapped(one: RouterEvidence, value: float, limits: RowOrderLimits) -> RowOrder | None:
    foreign = one.experts.foreign if one.experts else None
    if foreign is None or foreign.value < limits.least_foreign:
        return None
    return RowOrder(
        "swapped",
        f"the gate's rows have no tie to the experts ({number(value)} standard errors), but those of {foreign.router} "
        f"have ({number(foreign.value)}; the limit is {number(limits.least_foreign)}): the gates of the two layers "
        "were swapped, or one was copied over the other",
        quantity="tie to another layer's gate",
        measured=foreign.value,
        limit="least_foreign",
        remedy="Compare both gates with the base checkpoint, and give each layer its own",
    )


def _untied(one: RouterEvidence, value: float, expected: float, limits: RowOrderLimits) -> RowOrder:
    shape = one.weights.shape if one.weights else None
    random = shape is not None and distance(shape)[0] < limits.random_sigmas
    never = ", or it was never trained (it looks like random numbers; see untrained-gate)" if random else ""
    return RowOrder(
        "untied",
        f"the gate's rows have no tie to the experts ({number(value)} standard errors; the limit is "
        f"{number(limits.untied)}), while the other layers let expect {number(expected)} at least: they stand in "
        f"another order, or belong to another layer or checkpoint{never}",
        quantity="tie between gate rows and experts",
        measured=value,
        limit="untied",
    )


def is_clear(tie: RowTie, limits: RowOrderLimits) -> bool:
    """Whether the best order is more than chance would find."""
    bar = limits.least_lead + limits.lead_of_few / len(tie.owner)
    return tie.lead >= bar + (limits.lead_where_tied if tie.value > limits.untied else 0)


def is_permuted(tie: RowTie, limits: RowOrderLimits) -> bool:
    """Whether another order fits clearly, and far better than the present one."""
    return is_clear(tie, limits) and tie.kept < limits.most_kept


def rings(tie: RowTie, limits: RowOrderLimits) -> list[Exchange]:
    """Few rows that are exchanged in an order that is right otherwise."""
    if tie.value <= limits.untied or tie.kept < limits.most_kept or not is_clear(tie, limits):
        return []
    return [ring for ring in tie.exchanged if ring.gain >= limits.least_gain]


def sure_rows(tie: RowTie, limits: RowOrderLimits) -> list[tuple[int, int]]:
    """Row and expert, of all rows whose expert is clear."""
    return [(row, tie.owner[row]) for row, gap in enumerate(tie.gap) if gap >= limits.sure_gap]


def ties(routers: Sequence[RouterEvidence]) -> dict[str, float]:
    """Path -> tie in standard errors, of all learned routers where it is known."""
    found = {}
    for one in routers:
        if one.router.kind != "hash" and one.experts is not None and one.experts.coupling is not None:
            found[one.router.path] = one.experts.coupling
    return found


def expected_tie(path: str, known: dict[str, float], limits: RowOrderLimits) -> float | None:
    """The least tie that the model's other layers let expect here; None where they are few, or many have none."""
    others = [value for other, value in known.items() if other != path and value > limits.untied]
    lacking = len(known) - len(others)
    if len(others) < limits.least_layers or lacking > max(1, limits.most_untied * len(known)):
        return None
    logarithms = [math.log(value) for value in others]
    least = _OF_TWO if len(others) == 2 else _LEAST_DEVIATION
    return math.exp(fmean(logarithms) - _DEVIATIONS * max(least, stdev(logarithms)))
