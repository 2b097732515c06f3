"""What the sizes of a router's, its experts' and its shared expert's tensors tell, without a forward pass."""

import re
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from moeprobe.detectors.case import Case
from moeprobe.detectors.siblings import furthest, off_siblings, off_trend
from moeprobe.detectors.wording import listed, number
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.finding import Severity

if TYPE_CHECKING:
    from moeprobe.detectors.scale_mismatch import ScaleMismatchLimits

    ScaleCase = Case[ScaleMismatchLimits]

ROWS = "gate rows are of another scale than their siblings"
EXPERT_ZERO = "experts are all zero"
EXPERT = "experts are of another scale than their siblings"
LAYER = "the experts are of another scale than in the other layers"
SHARED_LOST = "the shared expert is lost"
SHARED = "the shared expert is of another scale than in the other layers"
GAIN_LOST = "the norm gain before the router is lost"
GAIN = "the norm gain before the router is of another scale than in the other layers"

TENSORS = (ROWS, EXPERT_ZERO, EXPERT, LAYER, SHARED_LOST, SHARED, GAIN_LOST, GAIN)
"""Causes that sit in one tensor."""

_COMPARE = "Compare this tensor, and its scales where it was quantised, with the base checkpoint"
_RESTORE = "Restore this tensor from the base checkpoint"
_SAID = 4
"""Tensors that a message names."""
_ALL_POSITIVE = 0.99
"""Share of positive entries of a gain; one that is stored without its offset of one is around zero."""

Sized = list[tuple[str, float]]
"""Names of tensors, and their size over that of their siblings."""


def judge_tensors(cases: Sequence["ScaleCase"]) -> None:
    """Judge every router's tensors beside their siblings, and beside the same tensors of the other layers."""
    for case in cases:
        experts = case.evidence.experts
        if case.evidence.weights or (experts and (experts.rms or experts.shared)):
            case.weigh()
        if experts and experts.reason:
            case.note(f"the experts' sizes are not known: {experts.reason}")
        _judge_rows(case)
        _judge_experts(case)
    for alike in _of_one_kind(cases):
        _judge_depth(alike)
        _judge_gain(alike)


def _of_one_kind(cases: Sequence["ScaleCase"]) -> Iterator[list["ScaleCase"]]:
    """Routers whose paths differ in numbers only: not those of encoder and decoder, or of text and images."""
    kinds: dict[str, list[ScaleCase]] = {}
    for case in cases:
        kinds.setdefault(re.sub(r"\d+", "#", case.evidence.router.path), []).append(case)
    yield from kinds.values()


def _judge_rows(case: "ScaleCase") -> None:
    weights, limits = case.evidence.weights, case.limits
    if weights is None:
        return
    # Columns beyond the routed experts are zero or skip experts, which a family sets apart.
    norms = weights.row_norms[: case.evidence.router.experts]
    off = off_siblings([None if row in weights.nonfinite_rows else n for row, n in enumerate(norms)],
                       limits.row_factor, limits)  # fmt: skip
    if off:
        named = [(f"the gate row of expert {row}", ratio) for row, ratio in off.items()]
        _find_off(case, named, "the median row", ROWS, "row_factor", list(off))


def _judge_experts(case: "ScaleCase") -> None:
    experts, limits = case.evidence.experts, case.limits
    if experts is None:
        return
    zero: dict[int, list[str]] = {}
    off: Sized = []
    who: set[int] = set()
    for name, sizes in experts.rms.items():
        for expert, size in enumerate(sizes):
            if size == 0:
                zero.setdefault(expert, []).append(name)
        for expert, ratio in off_siblings(sizes, limits.expert_factor, limits).items():
            off.append((f"{name} of expert {expert}", ratio))
            who.add(expert)
    if zero:
        names = list(dict.fromkeys(name for found in zero.values() for name in found))
        case.find(
            "error",
            f"every entry of {' and '.join(names)} of {listed(sorted(zero), 'expert')} is zero, so the tokens that go "
            "there get nothing",
            quantity="experts that are zero",
            measured=len(zero),
            cause=EXPERT_ZERO,
            remedy=_RESTORE,
            experts=sorted(zero),
        )
    if off:
        _find_off(case, off, "the median expert", EXPERT, "expert_factor", sorted(who))


def _judge_depth(cases: Sequence["ScaleCase"]) -> None:
    """Judge the shared expert and the median expert of each layer against the other layers."""
    for case in cases:
        shared = case.evidence.experts.shared if case.evidence.experts else {}
        if zero := [name for name, size in shared.items() if size == 0]:
            case.find(
                "error",
                f"every entry of {' and '.join(zero)} is zero, so the shared expert gives nothing",
                quantity="tensors of the shared expert that are zero",
                measured=len(zero),
                cause=SHARED_LOST,
                remedy=_RESTORE,
            )
    for sizes_of, cause in ((_shared, SHARED), (_median_expert, LAYER)):
        found: dict[int, Sized] = {}
        sizes = [sizes_of(case.evidence) for case in cases]
        for name in dict.fromkeys(name for held in sizes for name in held):
            series = {place: held[name] for place, held in enumerate(sizes) if name in held}
            for place, ratio in off_trend(series, cases[0].limits).items():
                found.setdefault(place, []).append((name, ratio))
        for place, off in found.items():
            _find_off(cases[place], off, "the trend of the other layers", cause, "depth_factor")


def _shared(evidence: RouterEvidence) -> dict[str, float | None]:
    return evidence.experts.shared if evidence.experts else {}


def _median_expert(evidence: RouterEvidence) -> dict[str, float | None]:
    held = evidence.experts.rms if evidence.experts else {}
    return {
        f"{name} of the median expert": median(size for size in sizes if size)
        for name, sizes in held.items()
        if any(sizes)
    }


def _judge_gain(cases: Sequence["ScaleCase"]) -> None:
    held = {place: case.evidence.weights.norm for place, case in enumerate(cases) if case.evidence.weights}
    norms = {place: norm for place, norm in held.items() if norm is not None}
    if not norms or median(norm.positive for norm in norms.values()) < _ALL_POSITIVE:
        return
    off = off_trend({place: norm.rms for place, norm in norms.items()}, cases[0].limits)
    for place, norm in norms.items():
        if norm.rms == 0:
            cases[place].find(
                "error",
                f"every entry of {norm.name}.weight is zero, so the router and its experts read nothing",
                quantity="size of the norm gain",
                measured=0.0,
                cause=GAIN_LOST,
                remedy=_RESTORE,
            )
        elif place in off:
            named = [(f"{norm.name}.weight", off[place])]
            _find_off(cases[place], named, "the trend of the other layers", GAIN, "depth_factor")


def _find_off(case: "ScaleCase", off: Sized, beside: str, cause: str, limit: str, experts: Sequence[int] = ()) -> None:
    limits = case.limits
    ordered = sorted(off, key=lambda entry: -furthest(entry[1]))
    said = ", ".join(f"{name} is {number(ratio)} times as large" for name, ratio in ordered[:_SAID])
    more = f", and so on for {number(len(off) - _SAID)} more" if len(off) > _SAID else ""
    most = furthest(ordered[0][1])
    severity: Severity = "error" if most >= limits.size_error else "warning"
    case.find(
        severity,
        f"beside {beside}, {said}{more} (the limit is a factor of {number(getattr(limits, limit))}, and "
        f"{number(limits.size_sigmas)} robust sigmas)",
        quantity="factor off the siblings",
        measured=most,
        limit=limit,
        cause=cause,
        remedy=_COMPARE,
        experts=experts,
    )
