"""All detectors, in the order of their codes."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from moeprobe.detectors.bias_runaway import BiasRunaway
from moeprobe.detectors.broken_contract import BrokenContract
from moeprobe.detectors.case import Limits
from moeprobe.detectors.causes import trace_causes
from moeprobe.detectors.dead_experts import DeadExperts
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.duplicate_experts import DuplicateExperts
from moeprobe.detectors.flat_scores import FlatScores
from moeprobe.detectors.hash_boundary import HashBoundary
from moeprobe.detectors.low_precision import LowPrecision
from moeprobe.detectors.overloaded_experts import OverloadedExperts
from moeprobe.detectors.permuted_experts import PermutedExperts
from moeprobe.detectors.routing_drift import RoutingDrift
from moeprobe.detectors.scale_mismatch import ScaleMismatch
from moeprobe.detectors.sqrt_nan import SqrtNan
from moeprobe.detectors.unread_tensors import UnreadTensors
from moeprobe.detectors.untrained_gate import UntrainedGate
from moeprobe.errors import OptionError
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import Check
from moeprobe.recipe import suggestion
from moeprobe.shortage import is_out_of_memory

DETECTORS: tuple[Detector[Any], ...] = (
    FlatScores(),
    BiasRunaway(),
    SqrtNan(),
    ScaleMismatch(),
    HashBoundary(),
    DeadExperts(),
    OverloadedExperts(),
    LowPrecision(),
    BrokenContract(),
    PermutedExperts(),
    DuplicateExperts(),
    UntrainedGate(),
    UnreadTensors(),
    RoutingDrift(),
)


def find(word: str) -> list[Detector[Any]]:
    """Return the detectors with this name or code, or whose name or code begins so.

    Raises:
        OptionError: there is none.

    """
    exact = [detector for detector in DETECTORS if word.lower() == detector.name or word.upper() == detector.code]
    begun = [d for d in DETECTORS if word and (d.name.startswith(word.lower()) or d.code.startswith(word.upper()))]
    if not (exact or begun):
        names = [detector.name for detector in DETECTORS]
        hint = suggestion(word, names + [detector.code for detector in DETECTORS])
        raise OptionError(f"Unknown detector {word!r}{hint}; known are {', '.join(names)}.")
    return exact or begun


def choose(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Detector[Any]]:
    """Return the selected detectors (all, if none is named) without the ignored ones.

    Raises:
        OptionError: a word names no detector, or no detector is left.

    """
    wanted = [detector for word in select for detector in find(word)] if select else list(DETECTORS)
    unwanted = [detector for word in ignore for detector in find(word)]
    chosen = [detector for detector in DETECTORS if detector in wanted and detector not in unwanted]
    if not chosen:
        raise OptionError("Every selected detector is ignored as well; select or ignore fewer of them.")
    return chosen


def explain(word: str) -> str:
    """Return the documentation of the detectors that a word names.

    Raises:
        OptionError: it names none.

    """
    return "\n\n".join(documentation(detector) for detector in find(word)) + "\n"


def documentation(detector: Detector[Any]) -> str:
    """Return a detector's documentation: the docstring of its file."""
    return (sys.modules[type(detector).__module__].__doc__ or "").strip()


def resolve_limits(overrides: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, Limits]:
    """Return the limits of every detector by its name, defaults replaced by ``overrides``.

    Raises:
        OptionError: a detector or limit does not exist, or a value is not possible.

    """
    by_name = {detector.name: detector for detector in DETECTORS}
    known = list(by_name)
    given = overrides or {}
    for name in given:
        if name not in by_name:
            raise OptionError(
                f"Limits are set for the unknown detector {name!r}{suggestion(name, known)}; "
                f"known are {', '.join(known)}."
            )
    return {name: _limits(detector, given.get(name, {})) for name, detector in by_name.items()}


def _limits(detector: Detector[Any], values: Mapping[str, float]) -> Limits:
    fields = list(detector.Limits.model_fields)
    for name in values:
        if name not in fields:
            raise OptionError(
                f"{detector.name} has no limit {name!r}{suggestion(name, fields)}; it has {', '.join(fields)}."
            )
    try:
        limits: Limits = detector.Limits.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(
            f"The limit {detector.name}.{first['loc'][0]} cannot be {first['input']!r}: {first['msg'].lower()}."
        ) from error
    return limits


def judge(
    evidence: Evidence, detectors: Sequence[Detector[Any]], limits: Mapping[str, Limits] | None = None
) -> Judgement:
    """Run the detectors and trace their findings to root causes.

    A detector that raises does not end the analysis: its checks are *failed*, with the error as the reason.
    """
    known = resolve_limits() if limits is None else limits
    checks, findings = [], []
    for detector in detectors:
        try:
            judgement = detector.judge(evidence, known[detector.name])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            judgement = _failed(detector, evidence, error)
        checks += judgement.checks
        findings += judgement.findings
    return Judgement(checks, trace_causes(findings, evidence, known))


def _failed(detector: Detector[Any], evidence: Evidence, error: Exception) -> Judgement:
    reason = f"the detector itself failed: {type(error).__name__}: {error}"
    paths: list[str | None] = [router.router.path for router in evidence.routers]
    return Judgement(
        [Check(detector=detector.name, router=path, verdict="failed", reason=reason) for path in paths or [None]], []
    )
