"""Who gets the tokens: load by layer and expert, and its evenness by depth."""

import math
from typing import TYPE_CHECKING

from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import BLUE, GREEN, INK, ORANGE, WIDTH, Picture, along_depth, band, line, svg
from moeprobe.reporting.depth import depth
from moeprobe.reporting.quantities import QUANTITIES
from moeprobe.reporting.readers import fair_shares
from moeprobe.reporting.words import number, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REACH = 3
"""The colours span 2**-3 to 2**3 fair shares; beyond, the ends of the scale stand."""


def heatmap(result: Result) -> Picture | None:
    """Load of every expert in every layer, in units of the fair share."""
    routers = [one for one in result.evidence.routers if one.activations]
    rows = [fair_shares(one.activations.load.counts) if one.activations else None for one in routers]
    shares = [share for row in rows for share in row or ()]
    if not shares:
        return None
    names = list(depth(routers).names.values())
    experts = max(len(row or ()) for row in rows)
    unseen = shares.count(0)
    alt = (
        f"Heatmap of load, {plural(len(rows), 'layer')} by {plural(experts, 'expert')}, in units of the fair "
        f"share: from {number(min(shares))} to {number(max(shares))}; {plural(unseen, 'cell')} never chosen."
    )
    labels = [name.partition(":")[0] for name in names]  # a path is too long for an axis
    return Picture("load", alt, lambda: _heatmap(rows, labels, experts, depth(routers).heading))


def max_vio(result: Result) -> Picture | None:
    """MaxVio by depth with its interval, beside the floor of pure chance and the choice without the bias."""
    routers = [one for one in result.evidence.routers if one.activations]
    if not routers:
        return None
    loads = [one.activations.load for one in routers if one.activations]
    worst = max(range(len(loads)), key=lambda place: loads[place].max_vio.value)
    axis = depth(routers)
    alt = (
        f"MaxVio by depth: largest {number(loads[worst].max_vio.value)} in {axis.heading} {axis.xs[worst]}, "
        f"where even routing would show {number(loads[worst].max_vio_floor)} by chance."
    )

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title("MaxVio, with its 99 % interval")
        biased = [load.max_vio for load in loads]
        band(axes, axis, [one.low for one in biased], [one.high for one in biased], BLUE)
        line(axes, axis, [one.value for one in biased], BLUE, "measured")
        unbiased = [QUANTITIES["max_vio_unbiased"].value(one) for one in routers]
        if any(value is not None for value in unbiased):
            line(axes, axis, unbiased, GREEN, "without the bias")
        floor = [load.max_vio_floor for load in loads]
        axes.plot(axis.xs, floor, color=ORANGE, linestyle="--", label="even routing, by chance")
        axes.set_ylim(bottom=0)
        along_depth(axes, axis)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)

    return Picture("maxvio", alt, lambda: svg(2.9, paint))


def _level(share: float) -> float:
    """Octaves from fair, held inside the scale; only an expert that was never chosen lies below it."""
    return max(math.log2(share), -_REACH) if share else -2.0 * _REACH


def _heatmap(rows: list[list[float] | None], labels: list[str], experts: int, heading: str) -> str:
    import matplotlib

    cells = [[_level(share) for share in row or ()] + [math.nan] * (experts - len(row or ())) for row in rows]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        ragged = any(len(row or ()) < experts for row in rows)
        grey = "; grey: no such expert" * ragged
        axes.set_title(f"Load in units of the fair share (white: never chosen{grey})")
        axes.set_facecolor("#BBBBBB")
        colours = matplotlib.colormaps["cividis"].with_extremes(under="white", bad="#BBBBBB")
        image = axes.imshow(cells, cmap=colours, vmin=-_REACH, vmax=_REACH, aspect="auto", interpolation="none")
        bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=30, shrink=0.9, extend="max")
        ticks = range(-_REACH, _REACH + 1)
        bar.set_ticks(list(ticks), labels=["fair" if t == 0 else f"1/{2**-t}" if t < 0 else f"{2**t}x" for t in ticks])
        bar.outline.set_visible(False)
        step = max(1, math.ceil(len(rows) / 20))
        axes.set_yticks(range(0, len(rows), step), labels[::step])
        axes.set_xlabel("expert")
        axes.set_ylabel(heading, color=INK)
        axes.grid(visible=False)

    return svg(min(max(1.3 + 0.16 * len(rows), 2.4), WIDTH * 0.72), paint)
