"""The report of the gate laboratory: what it measured, in tables with the sentences to read them by."""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from tabulate import tabulate

from moeprobe.findings.gates import Alternative, Controller, GateLayer, GateReport, RuleRun
from moeprobe.findings.result import write_text
from moeprobe.reporting.depth import depth
from moeprobe.reporting.document import (
    Bullets,
    Document,
    Figure,
    Heading,
    Listing,
    bullets,
    folded,
    joined,
    table,
    used_columns,
)
from moeprobe.reporting.figures_gates import pictures
from moeprobe.reporting.markdown import write
from moeprobe.reporting.text import code, plain, strong
from moeprobe.reporting.words import number, plural, span

_FUNCTIONS = Bullets(
    (
        f"{strong('effective weights')}: exp(entropy) of the k weights of a token, renormalised; from 1 (one expert "
        "decides) to k. Median over tokens.",
        f"{strong('effective scores')}: the same of all scores, made to sum to 1. For sigmoid and sqrtsoftplus it "
        f"is always "
        "near the number of experts, and says little.",
        f"{strong('temperature')}: d ln(score) / d logit of the chosen experts: by how much the ratio of two "
        f"weights follows "
        "the difference of their logits. 1 for a softmax, whatever the logits.",
        f"{strong('faded')}: share of scores whose derivative is below 1 % of its largest value, of all experts "
        f"and of the "
        "chosen ones. A softmax over many experts is flat nearly everywhere by this measure.",
        f"{strong('coupling')}: off-diagonal share of the Jacobian of the scores, and of the renormalised weights "
        f"of the "
        "chosen experts. Renormalising couples them all alike.",
        f"{strong('ties')}: share of tokens with equal scores on both sides of the choice, without a bias, when "
        f"the logits "
        f"are rounded to this dtype and the scores computed in it; {strong('changed')}: share of tokens whose "
        f"experts are "
        "not those of float64 (with the model's own bias, where the function is its own).",
        f"{strong('flips')}: share of selections that change when every bias moves by this step, up or down at "
        f"random. One "
        "step is a far larger push for small scores.",
    )
)

_RULES = (
    "From a bias of zero, each rule sees batches of one half of the sampled rows; MaxVio is that of the other "
    "half, beside "
    "the floor that even routing shows by chance on as many rows. Scores stay as they are: this is the "
    "controller without "
    "the training beside it. Sign and centred sign differ by a common offset alone, which no top-k sees (unless "
    "groups are filled with 0): the drift of the "
    "offset is how a trained bias comes to stand far from zero. The law is b = const - Q_e(1 - k/E), with Q_e "
    "the quantile "
    "of expert e's own score."
)


def write_gate_report(report: GateReport, folder: Path) -> Path:
    """Write ``gates.json``, then ``figures/gates-*.svg``, then ``gates.md``; give the path of the last.

    Raises:
        OutputError: a file cannot be written.

    """
    report.save(folder / "gates.json")
    for picture in pictures(report).values():
        write_text(folder / "figures" / f"{picture.name}.svg", picture.draw())
    return write_text(folder / "gates.md", write(document(report)))


def document(report: GateReport) -> Document:
    """The whole report as blocks."""
    drawn = pictures(report)
    probe = report.probe
    about = [
        f"{plural(len(report.layers), 'router')} of {plain(report.model.model_type)}, {plain(report.dtype)}",
        f"{probe.tokens:,} tokens of {plural(probe.documents, 'document')} ({plain(probe.name)})",
        f"at most {max(layer.rows for layer in report.layers):,} rows kept of a router, seed {report.seed}",
    ]
    controllers = [layer for layer in report.layers if layer.controller]
    return joined(
        Heading(1, f"Gates of {code(report.model.name)}"),
        " · ".join(about),
        bullets([plain(sentence) for sentence in sentences(report)]),
        Heading(2, "Score functions on the recorded logits"),
        "The experts are those that the model chose; what each function would weigh them by, and how firmly it "
        "would choose. " + _origin(report.layers),
        Figure(drawn["gates-functions"]),
        table(_summary_rows(report)),
        (_FUNCTIONS,),
        folded("By router: weights and scores", table(used_columns(_rows(report, _WEIGHT_COLUMNS)))),
        folded("By router: choice", table(used_columns(_rows(report, _CHOICE_COLUMNS)))),
        joined(
            Heading(2, "The balance controller"),
            _RULES,
            Figure(drawn["gates-controller"]),
            table(used_columns(_controller_rows(report))),
            joined(Heading(3, "The checkpoint's own bias"), table(_own_rows(report))) if _own_rows(report) else (),
        )
        if controllers
        else (),
        _left_out(report),
        Heading(2, "How it was measured"),
        (Listing(report.environment.command),),
    )


def summary(report: GateReport) -> str:
    """The report in a few lines of plain text, for the terminal."""
    rows = [{key: plain(value) for key, value in row.items()} for row in _summary_rows(report)]
    lines = [plain(f"Gates of {report.model.name}: {plural(len(report.layers), 'router')}"), ""]
    lines += [tabulate(rows, headers="keys", disable_numparse=True), ""]
    return "\n".join([*lines, *(plain(sentence) for sentence in sentences(report))])


def sentences(report: GateReport) -> list[str]:
    """What the numbers say, one sentence each."""
    said = []
    own = sorted({one.function for layer in report.layers for one in layer.alternatives if one.own})
    said.append(
        f"The model's own score function is {' and '.join(own)}."
        if own
        else "The model's own score function is none of softmax, sigmoid and sqrtsoftplus."
    )
    learned = [layer for layer in report.layers if layer.router.kind == "top-k"]
    flips = {
        name: [one.flips["0.001"] for layer in learned for one in layer.alternatives if one.function == name]
        for name in ("softmax", "sigmoid", "sqrtsoftplus")
    }
    if learned:
        told = ", ".join(f"{span([100 * value for value in values])} % with {name}" for name, values in flips.items())
        said.append(f"A bias step of 0.001 on every expert changes {told} of the selections.")
    controllers = [layer.controller for layer in report.layers if layer.controller]
    if controllers:
        said += _controller_sentences(controllers)
    return said


def _controller_sentences(controllers: list[Controller]) -> list[str]:
    first = controllers[0]
    finals = {run.rule: [one.rules[place].final for one in controllers] for place, run in enumerate(first.rules)}
    ends = ", ".join(f"{span(values)} with the {rule} rule" for rule, values in finals.items())
    drift = [one.rules[0].offset[-1] for one in controllers]
    said = [
        f"Balance rules with steps of {number(first.step)} end at a MaxVio of {ends}; without a bias it is "
        f"{span([one.unbiased for one in controllers])}, and even routing shows "
        f"{span([one.floor for one in controllers])}.",
        f"In {first.rules[0].updates[-1]:,} updates the mean of the bias drifts by {span(drift)} under the sign "
        f"rule, and by "
        "nothing but rounding under the others.",
    ]
    laws = [one.law.correlation for one in controllers if one.law and one.law.correlation is not None]
    if laws:
        said.append(f"The checkpoint's own bias follows the balance law with a correlation of {span(laws)}.")
    return said


def _origin(layers: Iterable[GateLayer]) -> str:
    recomputed = {layer.recomputed for layer in layers}
    if recomputed == {True}:
        return "Logits are recomputed in float32 from the router's recorded input."
    if recomputed == {False}:
        return "Logits are those that the router returned, in its own dtype."
    return (
        "Logits are recomputed in float32 from the router's recorded input where its gate allows it, else as returned."
    )


_Column = Callable[[Alternative], str]

_WEIGHT_COLUMNS: dict[str, _Column] = {
    "effective weights": lambda one: (
        f"{number(one.weights.p50)} ({number(one.weights.p05)} to {number(one.weights.p95)})"
    ),
    "effective scores": lambda one: number(one.scores.p50),
    "temperature": lambda one: number(one.temperature.p50),
    "faded": lambda one: number(one.faded),
    "faded, chosen": lambda one: number(one.faded_chosen),
    "exactly 0 or 1, fp32": lambda one: number(one.exact["float32"]),
    "bf16": lambda one: number(one.exact["bfloat16"]),
    "fp16": lambda one: number(one.exact["float16"]),
    "coupling, scores": lambda one: number(one.coupling),
    "weights": lambda one: number(one.coupling_weights),
}
_CHOICE_COLUMNS: dict[str, _Column] = {
    "ties, fp32": lambda one: number(one.ties.get("float32")),
    "bf16": lambda one: number(one.ties.get("bfloat16")),
    "fp16": lambda one: number(one.ties.get("float16")),
    "changed, fp32": lambda one: number(one.changed.get("float32")),
    "changed, bf16": lambda one: number(one.changed.get("bfloat16")),
    "changed, fp16": lambda one: number(one.changed.get("float16")),
    "flips, 0.001": lambda one: number(one.flips.get("0.001")),
    "flips, 0.01": lambda one: number(one.flips.get("0.01")),
}


def _rows(report: GateReport, columns: dict[str, _Column]) -> list[dict[str, str]]:
    axis = depth(report.layers)
    return [
        {axis.heading: axis.names[layer.router.path], "function": one.function + (" (own)" if one.own else "")}
        | {label: column(one) for label, column in columns.items()}
        for layer in report.layers
        for one in layer.alternatives
        if columns is _WEIGHT_COLUMNS or layer.router.kind == "top-k"
    ]


def _summary_rows(report: GateReport) -> list[dict[str, str]]:
    """Medians over routers."""
    rows = []
    for place, first in enumerate(report.layers[0].alternatives):
        ones = [layer.alternatives[place] for layer in report.layers]
        rows.append(
            {
                "function": first.function,
                "effective weights": _median(one.weights.p50 for one in ones),
                "effective scores": _median(one.scores.p50 for one in ones),
                "temperature": _median(one.temperature.p50 for one in ones),
                "faded": _median(one.faded for one in ones),
                "coupling": f"{_median(one.coupling for one in ones)}, then "
                f"{_median(one.coupling_weights for one in ones)}",
                "ties, bf16": _median(one.ties.get("bfloat16") for one in ones),
                "flips, 0.001": _median(one.flips.get("0.001") for one in ones),
            }
        )
    return rows


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(median(known) if known else None)


def _controller_rows(report: GateReport) -> list[dict[str, str]]:
    axis = depth(report.layers)
    rows = []
    for layer in report.layers:
        found = layer.controller
        for run in found.rules if found else ():
            assert found is not None
            rows.append({axis.heading: axis.names[layer.router.path]} | _run_row(found, run))
    return rows


def _run_row(found: Controller, run: RuleRun) -> dict[str, str]:
    return {
        "rule": run.rule,
        "MaxVio, start": number(found.unbiased),
        "end": number(run.final),
        "floor": number(found.floor),
        "within twice the floor after": number(run.settled) if run.settled is not None else "not reached",
        "offset": number(run.offset[-1]) if abs(run.offset[-1]) > 1e-12 else "0",
        "spread": number(run.spread),
        "law: correlation": number(run.law.correlation),
        "slope": number(run.law.slope),
        "checkpoint's bias: correlation": number(run.own),
    }


def _own_rows(report: GateReport) -> list[dict[str, str]]:
    axis = depth(report.layers)
    return [
        {
            axis.heading: axis.names[layer.router.path],
            "offset": number(found.own_offset),
            "spread": number(found.own_spread),
            "law: correlation": number(found.law.correlation),
            "slope": number(found.law.slope),
            "MaxVio with it": number(found.by_checkpoint),
            "with the law's": number(found.one_shot),
            "without": number(found.unbiased),
            "floor": number(found.floor),
        }
        for layer in report.layers
        if (found := layer.controller) and found.law
    ]


def _left_out(report: GateReport) -> Document:
    axis = depth(report.layers)
    told = [
        f"Balance rules, {axis.heading} {axis.names[layer.router.path]}: {plain(layer.without_controller)}"
        for layer in report.layers
        if layer.without_controller
    ]
    told += [f"{code(one.what)}: {plain(one.why)}" for one in report.not_measured]
    return joined(Heading(2, "What was not measured"), bullets(told)) if told else ()
