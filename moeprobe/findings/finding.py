"""Finding: one thing that is wrong, and Check: one detector on one router."""

import hashlib
from typing import Any, Literal

from pydantic import computed_field, model_validator

from moeprobe.findings.plain import Plain

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first."""

VerdictName = Literal["clean", "finding", "skipped", "failed"]

WHOLE_MODEL = ""
"""What ``follows`` holds for a finding about the whole model: the empty path, as in torch's ``named_modules``."""


class Finding(Plain):
    """One finding of one detector at one router (or at the whole model: ``router`` None).

    ``measured`` is the value of ``quantity``, ``limit`` the bar it crossed and ``limit_name`` the setting that
    moves the bar, e.g. ``flat-scores.std_error``; both are None where the fault is exact (a NaN, a zero row).
    ``follows`` is the path of the router whose finding caused this one, ``WHOLE_MODEL`` where that finding is
    about the whole model, and None for a root cause. ``experts`` are all that are concerned; none are named where
    the fault concerns the router as a whole.
    """

    detector: str
    code: str
    severity: Severity
    router: str | None
    layer: int | None
    experts: list[int] = []
    quantity: str
    measured: float | int | None = None
    limit: float | int | None = None
    limit_name: str | None = None
    message: str
    cause: str
    remedy: str
    follows: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str:
        """Identity across runs: detector, router, cause (a fixed phrase of the detector) and experts, never numbers."""
        key = "|".join([self.detector, self.router or "", self.cause, ",".join(map(str, self.experts))])
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @model_validator(mode="before")
    @classmethod
    def _without_fingerprint(cls, data: Any) -> Any:
        """Drop the fingerprint of a saved finding: it is made again from the finding itself."""
        return {key: value for key, value in data.items() if key != "fingerprint"} if isinstance(data, dict) else data


class Check(Plain):
    """The verdict of one detector on one router.

    ``reason`` says why it was skipped or failed. ``weighed``: what the weights alone tell was judged, also where the
    rest was skipped.
    """

    detector: str
    router: str | None
    verdict: VerdictName
    reason: str = ""
    weighed: bool = False
