"""The paper that figures are drawn on: one look, and the same bytes for the same numbers.

matplotlib is imported here and only when something is drawn. Its pyplot half is never used: it keeps global
state and asks for a display.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeprobe.reporting.depth import Depth
from moeprobe.reporting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every common kind of colour vision.
BLUE, ORANGE, GREEN, SKY, INK, PALE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#333333", "#E9EDF2"
WIDTH = 9.0
"""Inches; 864 pixels, the width of a page on GitHub."""

_STYLE = {
    "svg.hashsalt": "moeprobe",
    "svg.fonttype": "path",  # text as outlines: the same picture wherever it is opened
    "path.simplify": False,
    "font.family": "DejaVu Sans",  # travels with matplotlib
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
}


@dataclass(frozen=True)
class Picture:
    """A figure to come: its file name without ending, its description, and how to draw it as SVG text."""

    name: str
    alt: str
    draw: Callable[[], str]


def svg(height: float, paint: Callable[["Figure"], None]) -> str:
    """SVG of a figure ``WIDTH`` by ``height`` inches, filled by ``paint``; the same bytes at every run."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the report
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        paint(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def along_depth(axes: "Axes", depth: Depth) -> None:
    """Set up the axis of layers, with the hash layers shaded."""
    from matplotlib.ticker import MaxNLocator

    for first, last in _runs(depth.hashed):
        axes.axvspan(first - 0.5, last + 0.5, color=PALE, linewidth=0, zorder=0)
    axes.set_xlim(min(depth.xs) - 0.5, max(depth.xs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes.set_xlabel(f"{depth.heading} (shaded: hash tables)" if depth.hashed else depth.heading)
    axes.grid(visible=False, axis="x")


def log_axis(axes: "Axes") -> None:
    """Make the value axis logarithmic, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
    axes.yaxis.set_minor_formatter(NullFormatter())


def line(axes: "Axes", depth: Depth, values: Sequence[float | None], color: str, label: str = "") -> None:
    """Draw a line over depth with gaps where nothing was measured."""
    marker = "o" if len(depth.xs) <= 100 else ""
    axes.plot(depth.xs, gaps(values), color=color, marker=marker, label=label or None)


def band(axes: "Axes", depth: Depth, low: Sequence[float | None], high: Sequence[float | None], color: str) -> None:
    """Draw a pale band between two quantiles over depth."""
    axes.fill_between(depth.xs, gaps(low), gaps(high), color=color, alpha=0.18, linewidth=0)


def gaps(values: Iterable[float | None]) -> list[float]:
    """None as NaN, which matplotlib leaves out."""
    return [float("nan") if value is None else value for value in values]


def _runs(xs: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for x in xs:
        if runs and x == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], x)
        else:
            runs.append((x, x))
    return runs
