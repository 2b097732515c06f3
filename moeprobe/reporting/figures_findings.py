"""One small picture for a group of findings, chosen by what the evidence holds, not by who found it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeprobe.findings.evidence import RouterEvidence, ScaleCurve
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import BLUE, INK, ORANGE, Picture, along_depth, log_axis, svg
from moeprobe.reporting.depth import Depth, depth
from moeprobe.reporting.figures_scale import name as curve_name
from moeprobe.reporting.figures_scale import picture as curve_picture
from moeprobe.reporting.grouping import Group
from moeprobe.reporting.quantities import EVIDENCE, QUANTITIES
from moeprobe.reporting.readers import Quantity, centred_bias, fair_shares
from moeprobe.reporting.text import plain
from moeprobe.reporting.words import number, plural, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Strip:
    """A measured quantity over depth, the layers of the findings marked, and the limits that they crossed."""

    label: str
    axis: Depth
    values: Sequence[float | None]
    flagged: frozenset[int]
    limits: Sequence[float]
    known: bool
    """Whether the other layers' values were found too."""


@dataclass(frozen=True)
class Profile:
    """A value an expert of one router, the experts of the finding marked."""

    label: str
    place: str
    values: Sequence[float]
    flagged: frozenset[int]


def shown(group: Group, result: Result) -> Strip | Profile | ScaleCurve | None:
    """Choose what shows this group best, None where it left no number to show."""
    routers = {one.router.path: one for one in result.evidence.routers}
    worst = routers.get(group.worst.router or "")
    if curve := _curve(group, result):
        return curve
    strip = _strip(group, result)
    if strip and strip.known:
        return strip
    if worst and group.worst.detector == "bias-runaway" and (bias := centred_bias(worst)):
        return _profile("selection bias, median removed", group, result, bias)
    if worst and group.worst.experts and worst.activations:
        shares = fair_shares(worst.activations.load.counts)
        return _profile("load in fair shares", group, result, shares) if shares else strip
    if worst and group.worst.experts and worst.weights:
        return _profile("norm of the gate's row", group, result, worst.weights.row_norms)
    return strip


def picture(file: str, group: Group, result: Result) -> Picture | None:
    """Plan the drawing of what ``shown`` gives."""
    what = shown(group, result)
    title = plain(group.title)
    if isinstance(what, ScaleCurve):
        layers = {one.router.path: one.router.layer for one in result.evidence.routers}
        return curve_picture(file, [what], [curve_name(what, layers)])
    if isinstance(what, Profile):
        alt = (
            f"{title}: {what.label} by expert in {what.place}, {span(what.values)}; "
            f"{plural(len(what.flagged), 'expert')} marked."
        )
        return Picture(file, alt, lambda: svg(2.2, lambda figure: _paint_profile(figure, what)))
    if isinstance(what, Strip):
        marked = [v for x, v in zip(what.axis.xs, what.values, strict=True) if x in what.flagged and v is not None]
        bars = f", limit {span(what.limits)}" if what.limits else ""
        alt = f"{title}: {plain(what.label)} over depth, {span(marked)} in the layers found{bars}."
        return Picture(file, alt, lambda: svg(2.2, lambda figure: _paint_strip(figure, what)))
    return None


def _curve(group: Group, result: Result) -> ScaleCurve | None:
    curves = result.evidence.experiments.scale if result.evidence.experiments else []
    worst = group.worst
    for curve in curves:
        # Not "in", which takes a NaN for equal to itself until it was saved.
        measured = curve.best == worst.measured or curve.gain == worst.measured
        if curve.router == worst.router and measured and curve.points:
            return curve
    return None


def _profile(label: str, group: Group, result: Result, values: Sequence[float]) -> Profile:
    axis = depth(result.evidence.routers)
    return Profile(label, f"{axis.heading} {axis.x(group.worst.router)}", values, frozenset(group.worst.experts))


def _strip(group: Group, result: Result) -> Strip | None:
    routers = result.evidence.routers
    axis = depth(routers)
    found = [one for one in group.findings if one.quantity == group.worst.quantity and one.measured is not None]
    own = {one.router: one.measured for one in found if axis.x(one.router) is not None}
    if not any(value is not None and math.isfinite(value) for value in own.values()):
        return None
    quantity = _quantity(group.worst.detector, own, routers)
    values = [quantity.value(one) if quantity else own.get(one.router.path) for one in routers]
    flagged = frozenset(x for x in map(axis.x, own) if x is not None)
    limits = sorted({float(one.limit) for one in found if one.limit is not None and math.isfinite(one.limit)})
    label = quantity.label if quantity else plain(group.worst.quantity)
    return Strip(label, axis, values, flagged, limits, known=quantity is not None and len(routers) > 1)


def _quantity(
    detector: str, own: Mapping[str | None, float | int | None], routers: Sequence[RouterEvidence]
) -> Quantity | None:
    """Find the quantity that was measured by its values: a finding names it in its own words."""
    places = [one for one in routers if one.router.path in own]
    fitting = [
        QUANTITIES[name]
        for name in EVIDENCE.get(detector, tuple(QUANTITIES))
        if all(QUANTITIES[name].value(one) == own[one.router.path] for one in places)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _paint_strip(figure: "Figure", strip: Strip) -> None:
    axes = figure.add_subplot()
    axes.set_title(strip.label)
    pairs = [(x, v) for x, v in zip(strip.axis.xs, strip.values, strict=True) if v is not None]
    finite = [(x, v) for x, v in pairs if math.isfinite(v)]
    for mark, colour, size, flag in (("o", BLUE, 16, False), ("D", ORANGE, 26, True)):
        points = [(x, v) for x, v in finite if (x in strip.flagged) == flag]
        axes.scatter([x for x, _ in points], [v for _, v in points], s=size, c=colour, marker=mark, zorder=3)
    for x in (x for x, v in pairs if not math.isfinite(v)):
        axes.plot(x, 0.94, "x", color=ORANGE, transform=axes.get_xaxis_transform(), markersize=6)
    for limit in strip.limits:
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1)
    ends = strip.limits if len(strip.limits) < 3 else [strip.limits[0], strip.limits[-1]]
    sides = ["center"] if len(ends) == 1 else ["top", "bottom"]  # two bars may lie close together
    for limit, side in zip(ends, sides, strict=False):
        right = axes.get_yaxis_transform()
        axes.text(1.005, limit, f"limit {number(limit)}", transform=right, va=side, fontsize=8)
    axes.margins(y=0.15)
    levels = [v for _, v in finite] + list(strip.limits)
    if levels and min(levels) > 0 and max(levels) / min(levels) > 30:
        log_axis(axes)
    along_depth(axes, strip.axis)


def _paint_profile(figure: "Figure", profile: Profile) -> None:
    axes = figure.add_subplot()
    axes.set_title(f"{profile.label}, {profile.place}, by expert")
    for colour, flag in ((BLUE, False), (ORANGE, True)):
        chosen = [(e, v) for e, v in enumerate(profile.values) if (e in profile.flagged) == flag and math.isfinite(v)]
        axes.bar([e for e, _ in chosen], [v for _, v in chosen], 0.85, color=colour)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-0.8, len(profile.values) - 0.2)
    axes.set_xlabel("expert")
    axes.grid(visible=False, axis="x")
