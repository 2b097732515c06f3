"""The loss against a multiplier on the routed branch: a trained model sits near the bottom at 1."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moeprobe.findings.evidence import ScaleCurve
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import BLUE, GREEN, INK, ORANGE, SKY, Picture, svg
from moeprobe.reporting.words import number, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, SKY, "#CC79A7", "#999999")


def scale(result: Result) -> Picture | None:
    """All curves that were measured, the one of the whole model first."""
    curves = result.evidence.experiments.scale if result.evidence.experiments else []
    layers = {one.router.path: one.router.layer for one in result.evidence.routers}
    names = {curve.router: name(curve, layers) for curve in curves}
    shown = [curve for curve in curves if curve.points]
    return picture("scale", shown, [names[curve.router] for curve in shown]) if shown else None


def name(curve: ScaleCurve, layers: dict[str, int | None]) -> str:
    """Of a curve: ``all layers``, or the layer whose routed branch was multiplied."""
    if curve.router is None:
        return "all layers"
    layer = layers.get(curve.router)
    return "one router" if layer is None else f"layer {layer}"


def picture(file: str, curves: Sequence[ScaleCurve], names: Sequence[str]) -> Picture:
    """Change of the loss against multiplier 1; the best multiplier of each curve carries its paired error."""
    told = [
        f"{label} best at {number(one.best)}, gain {number(one.gain)} nats per token"
        for one, label in zip(curves[:6], names, strict=False)
    ]
    alt = f"Loss against a multiplier on the routed branch, {plural(len(curves), 'curve')}: {'; '.join(told)}."
    return Picture(file, alt, lambda: svg(2.9, lambda figure: _paint(figure, curves, names)))


def reference(curve: ScaleCurve) -> float | None:
    """Look up the loss at multiplier 1, None where the grid has no such point."""
    return next((p.loss for p in curve.points if math.isclose(p.multiplier, 1)), None)


def _paint(figure: "Figure", curves: Sequence[ScaleCurve], names: Sequence[str]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes = figure.add_subplot()
    axes.set_title("Loss with the routed branch multiplied, minus the loss as it is (nats per token)")
    for place, (curve, label) in enumerate(zip(curves, names, strict=True)):
        base = reference(curve)
        points = sorted((p.multiplier, p.loss - (base or 0)) for p in curve.points if p.multiplier > 0)
        few = place < len(_COLOURS)
        colour = _COLOURS[place] if few else "#CCCCCC"
        text = f"{label}: best at {number(curve.best)}" if few else None
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=text, zorder=3 if few else 2)
        if base is not None and few:
            axes.errorbar(curve.best, -curve.gain, 3 * curve.standard_error, color=colour, capsize=3, linewidth=1.2)
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xscale("log", base=2)
    grid = sorted({p.multiplier for curve in curves for p in curve.points if p.multiplier > 0})
    step = max(1, math.ceil(len(grid) / 16))
    axes.xaxis.set_major_locator(FixedLocator(grid[::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(grid[::step], [number(value) for value in grid[::step]])
    axes.set_xlabel("multiplier (bars: 3 standard errors of the paired gain)")
    _look_at_the_bottom(axes, curves)
    axes.legend(loc="upper center", frameon=True, facecolor="white", edgecolor="white", framealpha=1)


def _look_at_the_bottom(axes: "Axes", curves: Sequence[ScaleCurve]) -> None:
    """Cut the steep ends off, where they would press the bottom flat; the table has every point."""
    _, high = axes.get_ylim()
    near = [
        point.loss - (reference(curve) or 0)
        for curve in curves
        for point in curve.points
        if 0.45 <= point.multiplier / curve.best <= 2.2
    ]
    deepest = max((curve.gain + 3 * curve.standard_error for curve in curves), default=0)
    top = 1.3 * max(near, default=high)
    if 0 < top < high / 2:
        axes.set_ylim(-1.2 * max(deepest, 0.1 * top), top)
