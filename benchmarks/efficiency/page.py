"""The page of the experiment: table, figure, and what they show, every number taken from the run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.efficiency.study import NOISE, SHAKE, TRUTHS, Series, Setting, slope
from moeprobe.findings.result import write_text
from moeprobe.reporting.canvas import BLUE, INK, ORANGE, log_axis, svg
from moeprobe.reporting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "sample-efficiency.svg"
_ARRAYS = ("loss", "worst", "idle")


@dataclass(frozen=True)
class Run:
    """What was run, how long it took, and what came out."""

    setting: Setting
    jobs: int
    seconds: float
    series: list[Series]

    def save(self, path: Path) -> None:
        """Write the numbers as JSON, six digits each."""
        series = [
            asdict(one)
            | {name: np.vectorize(lambda v: float(f"{v:.6g}"))(getattr(one, name)).tolist() for name in _ARRAYS}
            for one in self.series
        ]
        told = {"setting": asdict(self.setting), "jobs": self.jobs, "seconds": self.seconds, "series": series}
        write_text(path, json.dumps(told) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read what ``save`` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        setting = {key: tuple(value) if isinstance(value, list) else value for key, value in told["setting"].items()}
        series = [
            Series(**one | {name: np.array(one[name]) for name in _ARRAYS} | {"sizes": tuple(one["sizes"])})
            for one in told["series"]
        ]
        return cls(Setting(**setting), told["jobs"], told["seconds"], series)


def write(run: Run, path: Path) -> None:
    """Write the page and, beside it, its figure."""
    write_text(path, text(run))
    write_text(path.with_name(FIGURE), figure(run))


def figure(run: Run) -> str:
    """Two rows (worst expert, Voronoi loss), a column for each truth and kind of expert, both axes logarithmic."""
    columns = list(dict.fromkeys((one.truth, one.expert) for one in run.series))

    def paint(paper: "Figure") -> None:
        axes = paper.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
        for column, kind in enumerate(columns):
            ones = [one for one in run.series if (one.truth, one.expert) == kind and one.fitted == 3]
            for row, (what, title) in enumerate((("worst", "Worst expert"), ("loss", "Voronoi loss"))):
                _panel(axes[row, column], ones, what, f"{title}, {kind[0]}, {kind[1]}")
            axes[1, column].set_xlabel("samples", color=INK)
        for row in range(2):
            log_axis(axes[row, 0])
        paper.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)

    return svg(5.4, paint)


def _panel(axes: "Axes", series: Sequence[Series], what: str, title: str) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    slopes = []
    for one in series:
        colour = BLUE if one.gate == "sigmoid" else ORANGE
        values = getattr(one, what)
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        axes.fill_between(one.sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(one.sizes, middle, color=colour, marker="o", label=one.gate)
        slopes.append(f"{slope(one.sizes, values)[0]:.2f}")
    axes.set_title(f"{title}\nslopes {' and '.join(slopes)}", fontsize=8.5)
    axes.set_xscale("log")
    decades = [10**power for power in range(1, 9) if series[0].sizes[0] <= 10**power <= series[0].sizes[-1]]
    axes.xaxis.set_major_locator(FixedLocator(decades))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(decades, [f"{decade:,}" for decade in decades])


def text(run: Run) -> str:
    """Write the page."""
    setting, three = run.setting, [one for one in run.series if one.fitted == 3]
    control = [one for one in run.series if one.fitted == 2]
    truths = "\n".join(f"  - Truth {name}: {_experts(name)}." for name in setting.truths)
    alt = (
        f"Distance of the worst expert and Voronoi loss against {setting.sizes[0]:,} to {setting.sizes[-1]:,} "
        f"samples for "
        "sigmoid and softmax gates, medians and quartiles on logarithmic axes."
    )
    how = "one process" if run.jobs == 1 else f"{run.jobs} processes"
    return f"""# Sample efficiency of sigmoid and softmax gates

Made by `python -m benchmarks.efficiency`: {len(run.series)} series of {len(setting.sizes)} sizes, {setting.replicates}
replicates and {setting.starts} starts each, {number(run.seconds / 60, 2)} minutes in {how} (less where they have their
cores for themselves).

The question is that of *Sigmoid Gating is More Sample Efficient than Softmax Gating in Mixture of Experts* (Nguyen, Ho,
Rinaldo, arXiv 2405.13997): with one expert too many, how fast does least squares find the experts? The slopes, sizes
and dimensions of its figure could not be recovered; none is quoted, and what follows is a reproduction of the set-up,
not of the figure.

## What was run

- y = sum_i gate_i(x) h(a_i x + b_i) + noise of {NOISE}, x uniform on [-3, 3], h a ReLU or the identity, two true
  experts. Each gate is fitted to data of its own kind, on the same inputs and noise. The truths were chosen by hand, B
  because in a small run of four it was the one in which the experts behind sigmoids came nearest.
{truths}
- Three experts are fitted by least squares (two, as a control), the best of {setting.starts} starts. The starts are
  **near the truth** (every parameter moved by a normal number of standard deviation {SHAKE}, the third expert a copy
  of a true one), which no training is; without that, the local minima of least squares would be measured.
- **Voronoi loss**: every fitted expert belongs to the nearest true one. A cell of one adds gate weight times distance,
  a cell of several gate weight times the square: n^-1/2 of this loss is n^-1/4 for experts that share a cell.
- **Worst expert**: distance of the true expert that is found worst from the nearest fitted one, with no square.
- Distances are of (a, b) alone, since the parameters of a softmax gate are known up to a common shift only. Slopes are
  of the log median against log n, with 95 % intervals from a bootstrap over replicates.

![{alt}]({FIGURE})

Medians, quartiles shaded.

## One expert too many

{_table(_rows(three, run))}

*below the truth*: share of fits whose residual is not above that of the truth, as it must be for least squares.

## Control: the right number of experts

{_table(_control(control))}

## What it shows

{_findings(three, control)}

## What it does not show

- Regime 2 of the paper is about the limit of an over-specified sigmoid fit, which it takes to be another function than
  the truth. Here it is not: a third expert whose output is 0, or that shares the work of the others, fits as well. So
  the limit is not unique, and more samples need not bring the experts nearer to the true ones (*the one too many* in
  the table is the fitted expert that is farthest from every true one). The two rates that are set against each other
  belong to different targets, as 2602.01466 says of the proof.
- Slopes over {np.log10(setting.sizes[-1] / setting.sizes[0]):.2g} decades are no rates: 1/log n and n^-1/4 look alike
  here, and a fit that is still far from its limit has a slope for other reasons.
- Every expert is used for every input, the loss is squared error, and inputs have one
  dimension. Sparse top-k routing trained with cross-entropy from a random start, which is what the checkpoints that
  moeprobe reads have gone through, is another problem; nothing here says which gate to train with.
"""


def _experts(name: str) -> str:
    rows = TRUTHS[name].tolist()
    return " and ".join(f"gate {a:g} x {b:+g} with expert {c:g} x {d:+g}" for a, b, c, d in rows)


def _rows(series: Sequence[Series], run: Run) -> list[dict[str, str]]:
    first, last = run.setting.sizes[0], run.setting.sizes[-1]
    return [
        {
            "truth": one.truth,
            "expert": one.expert,
            "gate": one.gate,
            "slope, worst expert": _interval(slope(one.sizes, one.worst)),
            f"worst, n = {first:,}": number(float(np.median(one.worst[0]))),
            f"n = {last:,}": number(float(np.median(one.worst[-1]))),
            "slope, Voronoi loss": _interval(slope(one.sizes, one.loss)),
            "the one too many": number(float(np.median(one.idle[-1]))),
            "below the truth": f"{one.below_truth:.0%}",
        }
        for one in series
    ]


def _control(series: Sequence[Series]) -> list[dict[str, str]]:
    return [
        {
            "truth": one.truth,
            "expert": one.expert,
            "gate": one.gate,
            "slope, worst expert": _interval(slope(one.sizes, one.worst)),
            f"worst, n = {one.sizes[-1]:,}": number(float(np.median(one.worst[-1]))),
            "below the truth": f"{one.below_truth:.0%}",
        }
        for one in series
    ]


def _findings(three: Sequence[Series], control: Sequence[Series]) -> str:
    """One sentence for every pair of gates, in words that follow from its intervals."""
    at = [slope(one.sizes, one.worst) for one in control]
    near = sum(low <= -0.5 <= high for _, low, high in at)
    told = [
        f"With the right number of experts the slope of the worst expert is {min(v for v, _, _ in at):.2f} to "
        f"{max(v for v, _, _ in at):.2f}; n^-1/2 lies inside {near} of {len(at)} intervals. "
        "That is the rate of a regular model."
    ]
    pairs: dict[tuple[str, str], dict[str, Series]] = {(one.truth, one.expert): {} for one in three}
    for one in three:
        pairs[one.truth, one.expert][one.gate] = one
    for (truth, expert), gates in pairs.items():
        sigmoid, softmax = gates["sigmoid"], gates["softmax"]
        steep, steep_too = slope(sigmoid.sizes, sigmoid.worst), slope(softmax.sizes, softmax.worst)
        which = (
            "the sigmoid's is steeper"
            if steep[2] < steep_too[1]
            else "the softmax's is steeper"
            if steep_too[2] < steep[1]
            else "the intervals overlap"
        )
        ends = [float(np.median(one.worst[-1])) for one in (sigmoid, softmax)]
        nearer = "sigmoid" if ends[0] < ends[1] else "softmax"
        told.append(
            f"Truth {truth}, {expert} experts, one too many: slopes {_interval(steep)} (sigmoid) and "
            f"{_interval(steep_too)} "
            f"(softmax): {which}. At {sigmoid.sizes[-1]:,} samples the {nearer} gate is nearer to the truth "
            f"({number(ends[0])} and {number(ends[1])})."
        )
    return "\n".join(f"- {line}" for line in told)


def _interval(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def _table(rows: Sequence[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)])
