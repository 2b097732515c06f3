"""The chapter of a comparison: how each router differs from the base's, beside what chance and rounding do."""

from collections.abc import Callable

from moeprobe.findings.drift import Drift
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.depth import depth
from moeprobe.reporting.document import Document, Figure, Heading, folded, joined, table, used_columns
from moeprobe.reporting.text import code, plain
from moeprobe.reporting.words import interval, number, plural

_LONGEST = 16
"""Routers up to which the table stands open."""

_HOW = (
    "Both models read the same tokens. Experts kept and same sets are shares of the base's choice; kept by "
    "margin weighs each token by the base's margin, so that near-ties count little; own is the share of same sets when "
    "both gates are given this model's inputs, so that what is left comes from the layers before. In brackets the "
    "99 % interval over documents. Floor is the distance between the loads of two samples of texts of the base "
    "alone; rounding is the share of sets that a float32 recomputation of the same router changes."
)

COLUMNS: dict[str, Callable[[Drift], str]] = {
    "experts kept": lambda drift: interval(drift.overlap),
    "kept by margin": lambda drift: interval(drift.firm_overlap),
    "same sets": lambda drift: interval(drift.same_sets),
    "own": lambda drift: interval(drift.own_sets),
    "rounding": lambda drift: number(drift.rounding),
    "weights, L1": lambda drift: interval(drift.weight_l1),
    "logits": lambda drift: interval(drift.logits),
    "load, TV": lambda drift: interval(drift.load_tv),
    "floor": lambda drift: number(drift.load_tv_floor),
    "bias, most": lambda drift: number(drift.bias.largest if drift.bias else None),
    "of its spread": lambda drift: number(drift.bias.spread if drift.bias else None),
    "table rows changed": lambda drift: number(drift.table_changed),
}


def against_base(result: Result, pictures: dict[str, Picture]) -> Document:
    """Tell how the routing differs from the base's; empty for a result that was compared with nothing."""
    base, compared = result.evidence.base, _compared(result)
    if base is None:
        return ()
    about = [f"revision {code(base.revision[:12])}"] if base.revision else []
    about += [plain(base.dtype)] + ([f"read from {code(base.saved)}"] if base.saved else [])
    about += [plain(base.tokenizer)] if base.tokenizer != "the same" else []
    axis = depth(result.evidence.routers)
    rows = [
        {axis.heading: axis.names[one.router.path]} | {label: text(drift) for label, text in COLUMNS.items()}
        for one, drift in compared
    ]
    by_layer = table(used_columns(rows))
    picture = pictures.get("drift")
    return joined(
        Heading(2, "Against the base model"),
        f"The base is {code(base.name)} ({', '.join(about)}). {plain(nearest(result))}",
        _HOW if rows else "",
        Figure(picture) if picture else "",
        by_layer if len(rows) <= _LONGEST else folded("Drift by layer", by_layer),
        folded("What differs before any token is read", _before(result)),
        folded("Experts that are gone", _gone(result)),
        folded("Experts whose load doubled or halved", _shifts(result)),
        folded("Experts in another order", _orders(result)),
    )


def nearest(result: Result) -> str:
    """Say how far the routing went from the base at most, in one sentence of plain text."""
    compared = _compared(result)
    if not compared:
        return "No router could be compared with the base."
    axis = depth(result.evidence.routers)
    one, least = min(compared, key=lambda pair: pair[1].overlap.value)
    firm = least.firm_overlap
    floor = max((drift.load_tv_floor or 0.0 for _, drift in compared), default=0.0)
    return (
        f"On {plural(least.tokens, 'token')} of {plural(least.documents, 'document')}, at least "
        f"{number(100 * least.overlap.value)} % of the experts are those of the base ({axis.heading} "
        f"{axis.x(one.router.path)}"
        + (f"; {number(100 * firm.value)} % of its choices, weighted by margin, are kept" if firm else "")
        + f"), and the load moved by at most {number(max(drift.load_tv.value for _, drift in compared))} "
        f"(two samples of texts: {number(floor)})."
    )


def _compared(result: Result) -> list[tuple[RouterEvidence, Drift]]:
    return [(one, one.drift) for one in result.evidence.routers if one.drift is not None]


def _shifts(result: Result) -> Document:
    axis = depth(result.evidence.routers)
    return table(
        [
            {
                axis.heading: axis.names[one.router.path],
                "expert": str(shift.expert),
                "base, fair shares": number(shift.base),
                "now": number(shift.tuned),
                "ratio (99 %)": interval(shift.ratio),
            }
            for one, drift in _compared(result)
            for shift in drift.shifts
        ]
    )


def _before(result: Result) -> Document:
    """Facts and tensors of each router beside the base's; nothing where all of them are."""
    axis = depth(result.evidence.routers)
    compared = _compared(result)
    if not any(one.facts or False in (one.gate_same, one.bias_same) or one.experts_changed for _, one in compared):
        return ()
    said = {True: "the base's", False: "another", None: "not known"}
    return table(
        [
            {
                axis.heading: axis.names[one.router.path],
                "rule": "; ".join(f"{fact.name}: {plain(fact.tuned)}, was {plain(fact.base)}" for fact in drift.facts)
                or "the base's",
                "gate": said[drift.gate_same],
                "bias": said[drift.bias_same],
                "experts that changed": number(drift.experts_changed),
            }
            for one, drift in compared
        ]
    )


def _gone(result: Result) -> Document:
    axis = depth(result.evidence.routers)
    return table(
        [
            {
                axis.heading: axis.names[one.router.path],
                "gone (the base's number)": str(lost.expert),
                "its load, fair shares": number(lost.load),
                "its tokens": number(lost.tokens),
                "their new choices": ", ".join(f"{number(100 * to.share)} % {to.expert}" for to in lost.receivers),
            }
            for one, drift in _compared(result)
            for lost in (drift.pruning.gone if drift.pruning else ())
        ]
    )


def _orders(result: Result) -> Document:
    axis = depth(result.evidence.routers)
    return table(
        [
            {
                axis.heading: axis.names[one.router.path],
                "likeness in the new order": number(drift.renumbering.likeness),
                "in the old": number(drift.renumbering.likeness_as_is),
                "moved": ", ".join(f"{old} to {new}" for old, new in enumerate(drift.renumbering.now) if old != new),
            }
            for one, drift in _compared(result)
            if drift.renumbering is not None
        ]
    )
