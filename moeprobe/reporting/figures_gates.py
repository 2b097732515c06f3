"""The figures of the gate laboratory: score functions by depth, and what the balance rules do."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moeprobe.findings.gates import Alternative, Controller, GateLayer, GateReport
from moeprobe.reporting.canvas import BLUE, GREEN, INK, ORANGE, Picture, along_depth, line, log_axis, svg
from moeprobe.reporting.depth import depth
from moeprobe.reporting.words import number, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"softmax": ORANGE, "sigmoid": GREEN, "sqrtsoftplus": BLUE}
_RULES: dict[str, dict[str, Any]] = {
    "sign": {"color": BLUE, "linewidth": 2.2},
    "centred sign": {"color": GREEN, "linestyle": "--"},  # on top of the sign rule, which has the same load
    "proportional": {"color": ORANGE},
}
_SHOWN = 4
"""Routers whose controller is drawn, spread over the depth."""


def pictures(report: GateReport) -> dict[str, Picture]:
    """Plan the figures, by name."""
    planned = [_functions(report), _controllers(report)]
    return {picture.name: picture for picture in planned if picture}


def shown(report: GateReport) -> list[GateLayer]:
    """Routers whose controller is drawn: at most four, the first and the last among them."""
    found = [layer for layer in report.layers if layer.controller]
    if len(found) <= _SHOWN:
        return found
    return [found[round(place * (len(found) - 1) / (_SHOWN - 1))] for place in range(_SHOWN)]


def _functions(report: GateReport) -> Picture:
    layers = report.layers
    panels: list[tuple[str, Callable[[Alternative], float | None]]] = [
        ("Effective experts (weights)", lambda one: one.weights.p50),
        ("Weight temperature", lambda one: one.temperature.p50),
        ("Ties in bfloat16", lambda one: one.ties.get("bfloat16")),
    ]
    alt = (
        f"Three panels by depth over {plural(len(layers), 'router')}, one line for softmax, sigmoid and "
        f"sqrtsoftplus each: "
        "effective number of experts of the weights, weight temperature, and share of tokens with a tie in bfloat16."
    )

    def paint(figure: "Figure") -> None:
        axis = depth(layers)
        for axes, (title, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            axes.set_title(title)
            for function, colour in _COLOURS.items():
                values = [value(one) for layer in layers for one in layer.alternatives if one.function == function]
                line(axes, axis, values, colour, function)
            along_depth(axes, axis)
        axes.legend(loc="best", fontsize=7.5)

    return Picture("gates-functions", alt, lambda: svg(2.7, paint))


def _controllers(report: GateReport) -> Picture | None:
    chosen = shown(report)
    if not chosen:
        return None
    names = depth(report.layers).names
    heading = depth(report.layers).heading
    ends = [
        f"{heading} {names[layer.router.path].partition(':')[0]}: "
        + ", ".join(f"{run.rule} {number(run.final)}" for run in layer.controller.rules)
        for layer in chosen
        if layer.controller
    ]
    alt = (
        f"MaxVio, and below it the mean of the bias, against updates of three balance rules. Ends at {'; '.join(ends)}."
    )

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(2, len(chosen), sharex=True, sharey="row", squeeze=False)
        for column, layer in enumerate(chosen):
            assert layer.controller is not None
            place = names[layer.router.path].partition(":")[0]
            _violation(grid[0, column], layer.controller, f"MaxVio, {heading} {place}")
            _offset(grid[1, column], layer.controller)
        log_axis(grid[0, 0])
        grid[0, -1].legend(loc="best", fontsize=7)
        grid[1, 0].set_ylabel("mean of the bias", color=INK)

    return Picture("gates-controller", alt, lambda: svg(4.4, paint))


def _violation(axes: "Axes", controller: Controller, title: str) -> None:
    axes.set_title(title)
    for run in controller.rules:
        axes.plot(run.updates, _positive(run.max_vio), label=run.rule, **_RULES[run.rule])
    axes.axhline(controller.floor, color=INK, linestyle=":", linewidth=1, label="even routing, by chance")
    if controller.by_checkpoint is not None:
        axes.axhline(controller.by_checkpoint, color="#999999", linestyle="--", linewidth=1, label="checkpoint's bias")


def _offset(axes: "Axes", controller: Controller) -> None:
    for run in controller.rules:
        axes.plot(run.updates, run.offset, **_RULES[run.rule])
    axes.set_xlabel("updates", color=INK)


def _positive(values: Sequence[float]) -> list[float]:
    """Zeros as NaN, which a logarithmic axis leaves out."""
    return [value if value > 0 else float("nan") for value in values]
