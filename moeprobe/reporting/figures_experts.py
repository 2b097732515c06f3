"""What the experts do, drawn: shares of the routing entropy by depth, sources by expert, drops along the sequence."""

import math
from typing import TYPE_CHECKING

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.findings.specialisation import QUESTIONS
from moeprobe.reporting.canvas import BLUE, GREEN, INK, ORANGE, SKY, WIDTH, Picture, along_depth, gaps, svg
from moeprobe.reporting.depth import depth
from moeprobe.reporting.readers import average
from moeprobe.reporting.text import plain
from moeprobe.reporting.words import number, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = dict(zip(QUESTIONS, (BLUE, INK, ORANGE, GREEN, SKY), strict=True))
_LABELS = 24
"""Sources that a heatmap has room for."""


def shares(result: Result) -> Picture | None:
    """Share of the routing entropy that each label explains, by depth."""
    routers = [one for one in result.evidence.routers if one.specialisation and one.specialisation.information]
    if not routers:
        return None
    axis = depth(routers)
    lines = {
        question: [
            one.specialisation.information[question].share * 100
            if one.specialisation and question in one.specialisation.information
            else None
            for one in routers
        ]
        for question in QUESTIONS
    }
    lines = {question: values for question, values in lines.items() if any(value is not None for value in values)}
    ends = {question: [value for value in values if value is not None] for question, values in lines.items()}
    told = "; ".join(f"{q} {number(min(v))} to {number(max(v))} %" for q, v in ends.items())
    alt = f"Share of the routing entropy that each label explains, beyond chance, by {axis.heading}: {told}."

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title("How much a label says about the experts of a token, in % of routing entropy, chance taken off")
        for question, values in lines.items():
            axes.plot(axis.xs, gaps(values), color=_COLOURS[question], marker="o", label=question)
        axes.set_ylim(bottom=min(0.0, *(min(v) for v in ends.values())))
        along_depth(axes, axis)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return Picture("specialisation", alt, lambda: svg(2.9, paint))


def sources(result: Result) -> Picture | None:
    """Share of each source's tokens that use each expert, in the learned layer where the source matters most."""
    found = strongest_layer(result)
    load = found.activations.load if found and found.activations else None
    if found is None or load is None or not 2 <= len(load.by_source) <= _LABELS:
        return None
    names = [name for name, tokens in load.source_tokens.items() if tokens]
    cells = [[100 * count / load.source_tokens[name] for count in load.by_source[name]] for name in names]
    fair = 100 * found.router.top_k / max(found.router.experts, 1)
    axis = depth(result.evidence.routers)
    heading, place = axis.heading, axis.x(found.router.path)  # a path is too long for a title
    row, top = max(enumerate(map(max, cells)), key=lambda pair: pair[1])
    alt = (
        f"Heatmap of {plural(len(names), 'source')} by {plural(len(cells[0]), 'expert')} in {heading} {place}: the "
        f"share of a source's tokens that use an expert; even use is {number(fair)} %, the largest share "
        f"{number(top)} % of {plain(names[row])} at expert {cells[row].index(top)}."
    )

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title(f"% of a source's tokens that use an expert, {heading} {place} (even use: {number(fair)} %)")
        image = axes.imshow(cells, cmap="cividis", vmin=0, aspect="auto", interpolation="none")
        bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=30, shrink=0.9)
        bar.outline.set_visible(False)
        axes.set_yticks(range(len(names)), [plain(name)[:24] for name in names])
        axes.set_xlabel("expert")
        axes.grid(visible=False)

    return Picture("sources", alt, lambda: svg(min(1.2 + 0.2 * len(names), WIDTH * 0.6), paint))


def drops(result: Result) -> Picture | None:
    """Share of assignments dropped along the sequence, mean over layers, for each capacity factor."""
    capacities = [s.capacity for one in result.evidence.routers if (s := one.specialisation) and s.capacity]
    lines: dict[str, list[float | None]] = {}
    simulated = [one for capacity in capacities for one in capacity.simulated if one.group == "sequence"]
    for factor in sorted({one.factor for one in simulated if math.isfinite(one.factor)}):
        lines[f"factor {number(factor)}"] = _mean([one.by_tenth for one in simulated if one.factor == factor])
    measured = [c.measured_by_tenth for c in capacities if c.measured_by_tenth is not None]
    if measured:
        lines["measured"] = _mean(measured)
    if not lines:
        return None
    told = "; ".join(f"{name} {number(row[0])} to {number(row[-1])} %" for name, row in lines.items())
    kind = "measured" if not simulated else "simulated" if not measured else "simulated and measured"
    alt = f"Assignments dropped along the sequence ({kind}), from the first tenth to the last: {told}."

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title(f"% of assignments dropped along the sequence, mean over layers ({kind})")
        for (name, values), colour in zip(lines.items(), _cycle(len(lines)), strict=True):
            axes.plot(range(1, 11), gaps(values), color=colour, marker="o", label=name)
        axes.set_xticks(range(1, 11))
        axes.set_xlabel("tenth of the sequence")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return Picture("drops", alt, lambda: svg(2.6, paint))


def strongest_layer(result: Result) -> RouterEvidence | None:
    """The learned router at which the source of a text says most about the experts."""
    found = [
        (one.specialisation.information["source"].share, one)
        for one in result.evidence.routers
        if one.specialisation and "source" in one.specialisation.information and one.router.kind != "hash"
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _mean(rows: list[list[float | None]]) -> list[float | None]:
    columns = [[100 * value for value in column if value is not None] for column in zip(*rows, strict=True)]
    return [average(column) if column else None for column in columns]


def _cycle(count: int) -> list[str]:
    colours = [BLUE, ORANGE, GREEN, SKY, INK]
    return (colours * math.ceil(count / len(colours)))[:count]
