"""What changes with depth: firmness of the choice, the selection bias, the size of the routed branch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import BLUE, SKY, Picture, along_depth, band, gaps, line, log_axis, svg
from moeprobe.reporting.depth import Depth, depth
from moeprobe.reporting.quantities import QUANTITIES
from moeprobe.reporting.readers import Quantity, at, centred_bias, quartiles
from moeprobe.reporting.words import number, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """One small plot over depth: the middle, and the ends of a band around it (5 and 95 % over tokens)."""

    title: str
    middle: Values
    low: Values = ()
    high: Values = ()
    from_zero: bool = True

    @property
    def words(self) -> str:
        """For the description: what it shows and between which numbers."""
        return f"{self.title} {span([value for value in self.middle if value is not None])}"


def firmness(result: Result) -> Picture | None:
    """Margins, spread of the logits, share of the modal set and evenness of the load, by depth."""
    routers = result.evidence.routers
    panels = [
        _quantile_panel("margin between chosen and next, in std of the scores", "selection.margin", routers),
        _quantile_panel("std of the logits over experts", "logits.std", routers),
        Panel("share of tokens with the most frequent set", _values(QUANTITIES["modal"], routers)),
        Panel("evenness of load (1: all experts equal)", _values(QUANTITIES["evenness"], routers), from_zero=False),
    ]
    return _panels("depth", "By depth", routers, panels)


def magnitudes(result: Result) -> Picture | None:
    """Norm of the routed output over the shared output and over the residual stream, by depth."""
    routers = result.evidence.routers
    panels = [
        _quantile_panel("|routed| / |shared|", "magnitudes.routed_to_shared", routers),
        _quantile_panel("|routed| / |residual|", "magnitudes.routed_to_residual", routers),
    ]
    return _panels("magnitudes", "Size of the routed branch by depth", routers, panels, scale="log")


def drift(result: Result) -> Picture | None:
    """Agreement with the base model by depth, each with its 99 % interval over documents."""
    routers = result.evidence.routers
    panels = [
        _interval_panel("share of the base's experts kept", "drift.overlap", routers),
        _interval_panel("experts kept, weighted by the base's margin", "drift.firm_overlap", routers),
        _interval_panel("L1 distance of the routing weights / their sum", "drift.weight_l1", routers),
        _interval_panel("total variation of the load", "drift.load_tv", routers),
    ]
    return _panels("drift", "Against the base by depth", routers, panels)


def bias(result: Result) -> Picture | None:
    """Spread of the selection bias by depth, its median removed: all experts, and the middle half."""
    routers, centred = [], []
    for one in result.evidence.routers:
        finite = [value for value in centred_bias(one) or () if math.isfinite(value)]
        if len(finite) > 1:
            routers.append(one)
            centred.append(finite)
    if not routers:
        return None
    axis = depth(routers)
    widest = max(range(len(routers)), key=lambda place: max(centred[place]) - min(centred[place]))
    alt = (
        f"Selection bias by depth without its median: widest in {axis.heading} {axis.xs[widest]}, "
        f"from {number(min(centred[widest]))} to {number(max(centred[widest]))}."
    )

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title("Selection bias over experts, without the median of its layer")
        axes.vlines(axis.xs, [*map(min, centred)], [*map(max, centred)], color=BLUE, label="all experts")
        low, high = zip(*(quartiles(values) or (0.0, 0.0) for values in centred), strict=True)
        heights = [end - start for start, end in zip(low, high, strict=True)]
        axes.bar(axis.xs, heights, 0.55, bottom=low, color=SKY, edgecolor=BLUE, label="middle half", zorder=2)
        along_depth(axes, axis)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)

    return Picture("bias", alt, lambda: svg(2.5, paint))


def _panels(
    name: str, title: str, routers: Sequence[RouterEvidence], panels: Sequence[Panel], scale: str = "linear"
) -> Picture | None:
    """Two panels a row; those without any number are left out."""
    shown = [panel for panel in panels if any(value is not None for value in panel.middle)]
    if not shown:
        return None
    axis = depth(routers)
    alt = f"{title}: {'; '.join(panel.words for panel in shown)}."

    def paint(figure: "Figure") -> None:
        grid = figure.subplots((len(shown) + 1) // 2, min(2, len(shown)), squeeze=False)
        for axes, panel in zip(grid.flat, shown, strict=False):
            _draw(axes, axis, panel, scale)
        for spare in grid.flat[len(shown) :]:
            spare.set_axis_off()

    return Picture(name, alt, lambda: svg(2.1 * ((len(shown) + 1) // 2), paint))


def _draw(axes: "Axes", axis: Depth, panel: Panel, scale: str) -> None:
    axes.set_title(panel.title)
    if panel.low:
        band(axes, axis, panel.low, panel.high, BLUE)
    line(axes, axis, panel.middle, BLUE)
    if scale == "log" and all(value > 0 for value in gaps(panel.middle) if math.isfinite(value)):
        log_axis(axes)
    elif panel.from_zero:
        axes.set_ylim(bottom=0)
    along_depth(axes, axis)


def _quantile_panel(title: str, part: str, routers: Sequence[RouterEvidence]) -> Panel:
    middle, low, high = (
        _values(Quantity(title, at(f"activations.{part}.{name}")), routers) for name in ("p50", "p05", "p95")
    )
    return Panel(title, middle, low, high)


def _interval_panel(title: str, part: str, routers: Sequence[RouterEvidence]) -> Panel:
    middle, low, high = (_values(Quantity(title, at(f"{part}.{name}")), routers) for name in ("value", "low", "high"))
    return Panel(title, middle, low, high)


def _values(quantity: Quantity, routers: Sequence[RouterEvidence]) -> Values:
    return [quantity.value(one) for one in routers]
