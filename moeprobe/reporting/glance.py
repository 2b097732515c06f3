"""The model at a glance: routers as measured, load, firmness, bias and size of the routed branch by depth."""

from collections.abc import Sequence

from moeprobe.findings.result import Result
from moeprobe.reporting.blocks import points
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.document import Document, Figure, Heading, folded, joined, table
from moeprobe.reporting.figures_scale import name
from moeprobe.reporting.routers import router_rows
from moeprobe.reporting.sheets import load_sheet, share_sheet, sheet
from moeprobe.reporting.text import code
from moeprobe.reporting.words import amount, number, plural

_WIDEST = 32
"""Experts up to which the load of every one is printed; result.json has them all."""

_LOAD = (
    "One column an expert, one row a layer; 1 is the fair share. MaxVio is the load of the fullest expert "
    "over the mean, minus 1; even routing shows the dashed floor by chance at this number of tokens."
)
_FIRM = (
    "Lines are medians over tokens, bands run from 5 to 95 %. The margin is the gap between the last chosen "
    "and the next expert, in units of the spread of the scores. Small margins alone are normal with many "
    "experts."
)
_BIAS = (
    "Only differences between experts decide, so the median of each layer is taken off; the offset itself is "
    "in the table and has no influence on the choice."
)
_SIZE = (
    "Norms per token, medians and 5 to 95 %. Trained models lie anywhere from about 0.3 to 5 against the "
    "shared experts; 1 is not a target."
)
_SCALE = (
    "A trained model sits near the bottom of its own loss at multiplier 1. Gains are paired by document; a "
    "best multiplier at the edge of the grid decides nothing. Steep ends may leave the frame; the tables have them."
)


def glance(result: Result, pictures: dict[str, Picture]) -> Document:
    """Router table and figures; a part without numbers is left out."""
    routers = result.evidence.routers
    biases = ("bias_dtype", "bias_stored", "bias_offset", "bias_spread", "bias_iqr", "balance_law")
    few = all(one.router.experts <= _WIDEST for one in routers)
    return joined(
        Heading(2, "The model at a glance"),
        _facts(result),
        table(router_rows([one.router for one in routers])),
        _part(
            "Load",
            _LOAD,
            [pictures.get("load"), pictures.get("maxvio")],
            {
                "Load by layer": load_sheet(routers),
                "Load of every expert": share_sheet(routers) if few else (),
            },
        ),
        _part(
            "Firmness of the choice",
            _FIRM,
            [pictures.get("depth")],
            {"Firmness by layer": sheet(routers, ("margin_spread", "std_spread", "modal", "evenness"))},
        ),
        _part("Selection bias", _BIAS, [pictures.get("bias")], {"Bias by layer": sheet(routers, biases)}),
        _part(
            "Size of the routed branch",
            _SIZE,
            [pictures.get("magnitudes")],
            {"Sizes by layer": sheet(routers, ("shared_spread", "residual_spread", "routed_rms", "input_rms"))},
        ),
        _scale(result, pictures.get("scale")),
    )


def _facts(result: Result) -> str:
    model = result.model
    gates = amount(model.router_parameters)
    whole = "an unknown number of" if model.parameters is None else amount(model.parameters)
    files = plural(model.files, "file") + ("" if model.bytes is None else f", {number(model.bytes / 1e9)} GB")
    routers = plural(len(result.evidence.routers), "router")
    told = (
        f"The table shows what the files of {routers} say; nothing ran, so the rule is what the config declares."
        if result.weights_only
        else f"The table shows what was measured on {routers}, beside it the config where it says otherwise."
    )
    return (
        f"{code(model.architecture)} (model type {code(model.model_type)}), {whole} parameters, {gates} of "
        f"them in routers; {files}. {told}"
    )


def _part(title: str, words: str, pictures: Sequence[Picture | None], tables: dict[str, Document]) -> Document:
    drawn = [Figure(picture) for picture in pictures if picture]
    if not drawn:
        return ()
    return joined(Heading(3, title), words, *drawn, *(folded(name, body) for name, body in tables.items()))


def _scale(result: Result, picture: Picture | None) -> Document:
    curves = result.evidence.experiments.scale if result.evidence.experiments else []
    layers = {one.router.path: one.router.layer for one in result.evidence.routers}
    rows = [
        {
            "multiplied": name(curve, layers),
            "best": number(curve.best) + ("" if curve.interior else " (edge of the grid)"),
            "gain": number(curve.gain),
            "standard error": number(curve.standard_error),
            "sources gaining": f"{curve.sources_gaining} of {curve.sources}",
            "documents": number(curve.documents),
            "tokens": number(curve.tokens),
        }
        for curve in curves
    ]
    losses = {f"Loss by multiplier, {name(curve, layers)}": points(curve) for curve in curves}
    if not picture:
        return ()
    return joined(
        Heading(3, "Loss against scale"),
        _SCALE,
        Figure(picture),
        table(rows),
        *(folded(k, v) for k, v in losses.items()),
    )
