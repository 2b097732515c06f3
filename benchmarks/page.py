"""The page: docs/detector-accuracy.md, a function of the scored cases."""

import platform
import re
from collections.abc import Callable, Iterable
from itertools import groupby

import torch
import transformers

import moeprobe
from benchmarks.planting import FAULTS, LOOKALIKES, Fault
from benchmarks.scoring import KNOWN, Scored, share

Rows = list[list[str]]


def page(scored: list[Scored], command: str, left_out: int = 0) -> str:
    """The whole page as Markdown; ``left_out`` cases of the plan were not run."""
    planted = [s for s in scored if s.case.fault]
    alike = [s for s in scored if not s.case.fault]
    known = [s for s in planted if s.fault.detector in KNOWN]
    later = [s for s in planted if s.fault.detector not in KNOWN]
    parts = [
        "# How often the detectors are right",
        f"Written by `{command}`; do not edit. Every fault is planted in a trained checkpoint, which is analysed and "
        "restored bit for bit.",
        f"moeprobe {moeprobe.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}.",
        f"{left_out} cases of the plan were not run for want of time." if left_out else "All planned cases were run.",
        "## In short",
        _short(known, alike),
        "**Demanded** cases are those where the detector's own definition, computed independently of it, asks for a "
        "finding at this strength and probe size; there recall and layer must be 100 %. Below that a fault may be "
        "caught or not. **Wrong blame** is an error or warning that accuses something else, or another layer, and is "
        "not marked as a consequence.",
        "## Faults",
        _summary(known),
        "## By strength",
        _by_strength(known),
        "## By probe and dtype",
        _by_setting(known),
        "## False alarms",
        _false_alarms(alike),
        *(["## Detectors that do not exist yet", _by_strength(later)] if later else []),
        "## Not visible without a reference",
        _invisible(),
        "## Everything that went wrong",
        _failures(scored),
    ]
    return "\n\n".join(parts) + "\n"


def _short(known: list[Scored], alike: list[Scored]) -> str:
    due = [s for s in known if s.demanded]
    hit = [s for s in known if s.hits]
    wrong = [s for s in known if s.blamed]
    checkpoints = {s.case.checkpoint for s in [*known, *alike]}
    lines = [
        f"{len(known)} cases with a fault in {len(checkpoints)} checkpoints, {len(alike)} with a healthy model or a "
        "look-alike",
        f"recall {share([s.caught for s in due])}, right layer {share([s.layer_right for s in due])} of the "
        f"{len(due)} demanded cases",
        f"right cause {share([s.cause_right for s in hit])} of the {len(hit)} findings at the right layer",
        f"wrong blame in {len(wrong)} of {len(known)} cases; the same thing said twice in "
        f"{sum(s.repeated > 0 for s in known)}",
        f"errors or warnings in {sum(bool(s.problems) for s in alike)} of {len(alike)} healthy and look-alike cases",
        f"analyses that crashed: {sum(bool(s.said['crashed']) for s in [*known, *alike])}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _summary(scored: list[Scored]) -> str:
    rows = []
    for fault, group in _grouped(scored, lambda s: FAULTS.index(s.fault)):
        due = [s for s in group if s.demanded]
        rows.append(
            [
                fault.detector,
                fault.says,
                str(len(group)),
                f"{len(due)}",
                share([s.caught for s in due]),
                share([s.layer_right for s in due]),
                share([s.cause_right for s in group if s.hits]),
                str(sum(bool(s.blamed) for s in group)),
                _first(fault, group),
            ]
        )
    head = ["detector", "fault", "cases", "demanded", "recall", "layer", "cause", "wrong blame", "first caught"]
    return _table(head, rows)


def _first(fault: Fault, group: list[Scored]) -> str:
    """The weakest strength at which any case, and at which every case, was caught."""
    enough = [s for s in group if s.case.tokens >= fault.tokens]
    some = [x for x in fault.strengths if any(s.caught for s in enough if _same(s.case.strength, x))]
    every = [
        x
        for x in fault.strengths
        if (of := [s for s in enough if _same(s.case.strength, x)]) and all(s.caught for s in of)
    ]
    if not some:
        return "never"
    return f"{some[0]:.3g}" + (f", always at {every[0]:.3g}" if every else ", not always")


def _same(a: float, b: float) -> bool:
    return f"{a:g}" == f"{b:g}"


def _by_strength(scored: list[Scored]) -> str:
    rows = []
    for fault, group in _grouped(scored, lambda s: FAULTS.index(s.fault)):
        for strength in fault.strengths:
            here = [s for s in group if _same(s.case.strength, strength)]
            if not here:
                continue
            due, rest = [s for s in here if s.demanded], [s for s in here if not s.demanded]
            rows.append(
                [
                    fault.full_name,
                    f"{strength:.3g}",
                    str(len(here)),
                    f"{sum(s.caught for s in due)} of {len(due)}",
                    f"{sum(s.caught for s in rest)} of {len(rest)}",
                    share([s.layer_right for s in here if s.caught]),
                    share([s.cause_right for s in here if s.hits]),
                    str(sum(bool(s.blamed) for s in here)),
                ]
            )
    head = ["fault", "strength", "cases", "caught of demanded", "of the others", "layer", "cause", "wrong blame"]
    return _table(head, rows)


def _by_setting(scored: list[Scored]) -> str:
    rows = []
    settings = sorted({(s.case.tokens, s.case.dtype) for s in scored})
    for tokens, dtype in settings:
        here = [s for s in scored if (s.case.tokens, s.case.dtype) == (tokens, dtype)]
        due = [s for s in here if s.demanded]
        rows.append(
            [
                f"{tokens:,}",
                dtype,
                str(len(here)),
                str(len(due)),
                share([s.caught for s in due]),
                share([s.layer_right for s in due]),
                str(sum(bool(s.blamed) for s in here)),
            ]
        )
    return _table(["tokens", "dtype", "cases", "demanded", "recall", "layer", "wrong blame"], rows)


def _false_alarms(scored: list[Scored]) -> str:
    rows = []
    for lookalike in LOOKALIKES:
        here = [s for s in scored if s.case.name == lookalike.name]
        if here:
            count = {x: sum(f["severity"] == x for s in here for f in s.problems) for x in ("error", "warning")}
            rows.append([lookalike.name, lookalike.says, str(len(here)), str(count["error"]), str(count["warning"])])
    return _table(["look-alike", "what it is", "cases", "errors", "warnings"], rows)


def _invisible() -> str:
    lines = [f"- {fault.full_name}: {fault.says}" for fault in FAULTS if not fault.visible]
    return "\n".join(["These are planted and counted, but no finding is demanded:", "", *lines])


def _failures(scored: list[Scored]) -> str:
    """Complaints about one dose in one checkpoint that differ in their numbers alone stand in one row."""
    found: dict[tuple[str, str, str, str], list[tuple[Scored, str]]] = {}
    for one in scored:
        for complaint in one.wrong:
            at = f"{one.case.strength:.3g}" if one.case.fault else ""
            key = (one.case.name, one.case.checkpoint, at, re.sub(r"[\d.]+", "0", complaint)[:80])
            found.setdefault(key, []).append((one, complaint))
    rows = []
    for (name, checkpoint, at, _), group in sorted(found.items()):
        layers = ", ".join(sorted({_layer(x) for one, _ in group for x in one.said.get("layers", [])}))
        settings = ", ".join(sorted({f"{one.case.dtype} {one.case.tokens:,}" for one, _ in group}))
        rows.append([name, at, checkpoint, layers, str(len(group)), settings, group[0][1]])
    head = ["case", "strength", "checkpoint", "planted at layer", "times", "where", "what was wrong, for example"]
    return _table(head, rows) if rows else "Nothing."


def _layer(layer: int | None) -> str:
    return "model" if layer is None else str(layer)


def _grouped(scored: list[Scored], order: Callable[[Scored], int]) -> Iterable[tuple[Fault, list[Scored]]]:
    for _, group in groupby(sorted(scored, key=order), key=order):
        members = list(group)
        yield members[0].fault, members


def _table(head: list[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
