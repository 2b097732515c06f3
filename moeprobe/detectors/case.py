"""Case: one detector on one router, while it is being decided.

A detector tells its case what it finds, what it could not judge and why; the case turns that into findings
and one check. Worst wins: a finding outranks a failure, a failure outranks a skip, a skip outranks clean. A
finding of severity info describes something harmless and leaves the verdict clean.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Activations, RouterEvidence
from moeprobe.findings.finding import SEVERITIES, Check, Finding, Severity, VerdictName

EVERY = "every token uses every expert, so there is no choice to judge"
SINGLE = "there is a single expert, so there is no choice to judge"


class Limits(BaseModel):
    """The bars of one detector. Every field says what it bounds and where its value comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


L = TypeVar("L", bound=Limits)


class Case(Generic[L]):
    """One detector on one router, or on the whole model where ``subject`` is None.

    ``alone``: no other router has the same layer (encoder and decoder count their layers separately).
    """

    def __init__(
        self,
        detector: str,
        code: str,
        limits: L,
        subject: RouterEvidence | None,
        probed: bool,
        alone: bool = True,
    ) -> None:
        self.detector = detector
        self.code = code
        self.limits = limits
        self.subject = subject
        self.findings: list[Finding] = []
        self._probed = probed
        self._alone = alone
        self._failures: list[str] = []
        self._skips: list[str] = []
        self._notes: list[str] = []
        self._weighed = False

    @property
    def evidence(self) -> RouterEvidence:
        """The router's evidence; only a case about one router has it."""
        assert self.subject is not None
        return self.subject

    @property
    def path(self) -> str | None:
        """Path of the router."""
        return self.subject.router.path if self.subject else None

    @property
    def place(self) -> str:
        """How a message names the router: by its layer where it has one, with its path if it is not alone there."""
        if self.subject is None:
            return "All layers"
        layer = self.subject.router.layer
        if layer is None:
            return f"Router {self.path}"
        return f"Layer {layer}" if self._alone else f"Layer {layer} ({self.path})"

    def find(
        self,
        severity: Severity,
        message: str,
        *,
        quantity: str,
        cause: str,
        remedy: str,
        measured: float | int | None = None,
        limit: str | None = None,
        experts: Sequence[int] = (),
        where: str | None = None,
    ) -> None:
        """Add a finding.

        ``limit`` names the limit that was crossed, None where the fault is exact. ``where`` replaces the place in the
        message.
        """
        router = self.subject.router if self.subject else None
        self.findings.append(
            Finding(
                detector=self.detector,
                code=self.code,
                severity=severity,
                router=self.path,
                layer=router.layer if router else None,
                experts=list(experts),
                quantity=quantity,
                measured=measured,
                limit=getattr(self.limits, limit) if limit else None,
                limit_name=f"{self.detector}.{limit}" if limit else None,
                message=f"{where or self.place}: {message}.",
                cause=cause,
                remedy=remedy,
            )
        )

    def skip(self, reason: str) -> None:
        """Say that a part which the verdict needs does not apply or was not measured."""
        self._skips.append(reason)

    def fail(self, reason: str) -> None:
        """Say that something went wrong with a part: the answer is not known."""
        self._failures.append(reason)

    def note(self, remark: str) -> None:
        """Add a remark to the reason of the check; it does not change the verdict."""
        self._notes.append(remark)

    def weigh(self) -> None:
        """Say that what the weights alone tell was judged: an answer, even if the rest is skipped."""
        self._weighed = True

    def keep_worst(self) -> None:
        """Keep the first of the worst findings, for clauses that are symptoms of one fault.

        Infos stay: they describe, they do not accuse.
        """
        problems = [finding for finding in self.findings if finding.severity != "info"]
        if problems:
            worst = min(problems, key=lambda finding: SEVERITIES.index(finding.severity))
            self.findings = [found for found in self.findings if found is worst or found.severity == "info"]

    def chooses(self) -> bool:
        """Whether this router has a choice to judge; if it has none, the verdict says so."""
        router = self.evidence.router
        if router.top_k < router.score_columns:
            return True
        self.skip(SINGLE if router.score_columns == 1 else EVERY)
        return False

    def activations(self) -> Activations | None:
        """Return what the probe showed here, or None with the reason noted in the verdict."""
        router, shown = self.evidence.router, self.evidence.activations
        if not router.reached:
            self.skip(router.reason)
            return None
        if not router.verified and (shown is not None or (self._probed and router.reason)):
            self.fail(router.reason or "the router could not be verified")
            return None
        if shown is None:
            self.skip("no activations were recorded" if self._probed else "needs a forward pass")
        return shown

    def enough_tokens(self, tokens: int, least: float) -> bool:
        """Whether the tokens suffice; if not, the verdict says so."""
        return self._enough(tokens, least, "tokens")

    def enough_ids(self, ids: int, least: float) -> bool:
        """Whether the distinct token ids suffice; if not, the verdict says so."""
        return self._enough(ids, least, "distinct token ids")

    def _enough(self, seen: int, least: float, noun: str) -> bool:
        if seen < least:
            self.skip(f"too few {noun}: {number(seen)} of {number(least)}")
        return seen >= least

    def check(self) -> Check:
        """Return the verdict."""
        verdict: VerdictName = "clean"
        if any(finding.severity != "info" for finding in self.findings):
            verdict = "finding"
        elif self._failures:
            verdict = "failed"
        elif self._skips:
            verdict = "skipped"
        reasons = dict.fromkeys([*self._failures, *self._skips, *self._notes])
        return Check(
            detector=self.detector,
            router=self.path,
            verdict=verdict,
            reason="; ".join(reasons),
            weighed=self._weighed,
        )
