"""Recording: a context manager that records the routing of a model's own forward passes."""

import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.errors import NotMoEError, RecordingError
from moeprobe.findings.router import Router
from moeprobe.records.capture import Capture
from moeprobe.records.eager import eagerly
from moeprobe.records.known import Known
from moeprobe.records.passes import Passes, refuse_unhooked
from moeprobe.records.record import Record
from moeprobe.records.row_copies import copied, norms
from moeprobe.records.row_labels import RowLabels
from moeprobe.records.scopes import Frame, Scopes
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.read import read_gate
from moeprobe.routers.routing import UNUSED, widened
from moeprobe.routers.verify import misplaced, verify
from moeprobe.routers.wrapped import inner, unframed

Sink = Callable[[Record], None]

NEVER_REACHED = "the forward pass never reached it"
NEVER_CALLED = "it was never called while it was recorded"
GONE_AROUND = "the router never fired: its block ran without it, so a fused kernel seems to go around it"


class _Pass(threading.local):
    """A thread's forward pass: which batch it reads, how often each router fired, and what its rows are."""

    def __init__(self) -> None:
        self.batch = 0
        self.fired: dict[str, int] = {}
        self.documents: Tensor | None = None
        self.kept: tuple[Tensor | None, Tensor | None] = (None, None)
        self.labels: tuple[Frame, int, torch.device, RowLabels] | None = None


class Recording:
    """What a recording saw.

    ``records`` holds one ``Record`` per router call, in the order of the calls (empty where a sink took them).
    ``routers`` are the facts of every router that fired; ``unread`` maps the path of every router that could not
    be recorded to the reason. ``known`` is what stands behind both, with the ``batch`` (a number that whoever runs
    the model sets before each) in which it was learned.

    ``own_error`` is an exception of the recording itself, or of its sink, and not of
    the model that it went through. ``failure`` is set by whoever runs the model, if a forward pass failed.
    """

    def __init__(
        self, model: nn.Module, sink: Sink | None = None, keep_inputs: bool = False, warns: bool = False
    ) -> None:
        self.model = model
        self.records: list[Record] = []
        self.failure: str | None = None
        self.own_error: Exception | None = None
        self._sink = sink if sink is not None else self.records.append
        self._keep_inputs, self._warns = keep_inputs, warns
        self._known = Known()
        self._handles: list[RemovableHandle] = []
        refuse_unhooked(model)
        self._sites = find_sites(model)
        self._captures: list[Capture] = []
        self._scopes = Scopes(model, [site.path for site in self._sites])
        self._passes = Passes(model, self._begins, self.end_pass)
        self._eager = ExitStack()
        self._pass = _Pass()
        if not self._sites:
            raise NotMoEError(
                f"No router was found in {type(model).__name__}: it is a dense model, or of a kind that moeprobe "
                "does not know."
            )

    @property
    def batch(self) -> int:
        """Number of the batch that this thread's forward pass reads."""
        return self._pass.batch

    @batch.setter
    def batch(self, number: int) -> None:
        self._pass.batch = number

    @property
    def sites(self) -> list[Site]:
        """The routed sites of the model, whether they fired or not."""
        return self._sites

    @property
    def gates(self) -> list[Gate]:
        """Facts and tensors of the routers that fired, in the order of the model's modules."""
        found = self._known.gates
        return [found[site.path] for site in self._sites if site.path in found]

    @property
    def routers(self) -> list[Router]:
        """Facts of the routers that fired."""
        return [gate.router for gate in self.gates]

    @property
    def unread(self) -> dict[str, str]:
        """Why a router could not be recorded, by path, in the order of the model's modules."""
        found = self._known.unread
        return {site.path: found[site.path] for site in self._sites if site.path in found}

    @property
    def known(self) -> Known:
        """What was learned of the routers so far."""
        for capture in self._captures:
            self._known.habits[capture.site.path] = capture.habit
        return self._known

    def forget(self, known: Known | None = None) -> None:
        """Begin anew, or with what another recording of the same model knows."""
        self._known, self.failure = known or Known(), None

    def label(self, documents: Tensor, keep: Tensor, decoder_keep: Tensor | None = None) -> None:
        """Name the rows of the next forward pass: the document of each row, and which tokens to record.

        Args:
            documents: [rows] int64, index of the document that each row of the batch comes from.
            keep: [rows, length] bool, the tokens to record (instead of the attention mask's).
            decoder_keep: [rows, length] bool, the same for the decoder's ids, where the model has an encoder.

        """
        self._pass.documents, self._pass.kept = documents, (keep, decoder_keep)
        self._pass.labels = None

    def __enter__(self) -> Self:
        if self._handles:
            self._warns = False  # whoever runs the block is told more than that nothing was recorded
            raise RecordingError("This recording is already running; make a new one with moeprobe.record(model).")
        habits = self._known.habits
        self._captures = [Capture(site, self._take, habits.get(site.path)) for site in self._sites]
        try:
            self._eager.enter_context(eagerly())
            self._handles += self._passes.attach_begin()
            self._handles += self._scopes.attach()
            for capture in self._captures:
                self._handles += capture.attach()
            # Last: a block that is the model itself ends first.
            self._handles += self._passes.attach_end()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()
        if self._warns and kind is None and not self._passes.routed:
            for site in self._sites:
                self._known.miss(site.path, NEVER_CALLED, self.batch)
            warnings.warn(self._passes.nothing_seen(), RuntimeWarning, stacklevel=2)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._eager.close()
        self._known = self.known
        self._captures = []

    def _begins(self) -> None:
        for capture in self._captures:
            capture.reset()
        self._pass.fired = {}

    def end_pass(self) -> None:
        """End the forward pass of this thread; for one that was stopped before its own end."""
        for capture in self._captures:
            capture.flush()
        self._pass.documents, self._pass.kept, self._pass.labels = None, (None, None), None
        for capture in self._captures:
            path = capture.site.path
            if self._pass.fired.get(path, 0) == 0:
                self._known.miss(path, NEVER_REACHED, self.batch)

    def _take(self, site: Site, call: RouterCall) -> None:
        self._passes.routed = True
        if not call.router_calls:
            self._known.refuse(site.path, GONE_AROUND, self.batch)
            return
        self._pass.fired[site.path] = self._pass.fired.get(site.path, 0) + call.router_calls
        try:
            try:
                gate = self._gate(site, call)
            except ValueError as error:
                self._known.refuse(site.path, str(error), self.batch)
                return
            self._sink(self._record(gate, call))
        except Exception as error:
            self.own_error = error
            raise

    def _gate(self, site: Site, call: RouterCall) -> Gate:
        known = self._known.gates.get(site.path)
        explained = False
        if known is None:
            relative = self._known.relative(type(inner(site.router)).__name__)
            gate = read_gate(site, call, getattr(unframed(self.model), "config", None), relative)
            explained = gate.router.fit_error is not None and not gate.router.biased_weights
            verified, reason = verify(site, call)
        else:
            gate = known
            verified, reason = verify(site, call) if known.router.verified else (False, known.router.reason)
        if self._pass.fired[site.path] > 1:
            verified, reason = False, "the router fired more than once in one forward pass"
        misdispatched = gate.router.misdispatched or bool(misplaced(call))
        if known is None or verified != gate.router.verified:
            facts = {"verified": verified, "reason": reason, "misdispatched": misdispatched}
            gate = gate.with_router(gate.router.model_copy(update=facts))
            self._known.keep(gate, self.batch)
        if explained:
            self._known.keep_relative(gate)
        return gate

    def _record(self, gate: Gate, call: RouterCall) -> Record:
        used, returned = call.used, call.returned
        assert used.experts is not None
        assert used.weights is not None
        # What the experts were given are copies already.
        experts = used.experts.to(torch.int64, copy=call.given.experts is None)
        weights = used.weights.to(torch.float32, copy=call.given.weights is None)
        experts, weights = widened(experts, gate.router.top_k, UNUSED), widened(weights, gate.router.top_k, 0)
        total = experts.shape[0]
        labels = self._labels(total, gate.router.path, experts.device)
        keep = None if labels.keep is None else labels.keep.nonzero().flatten()

        def kept(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or keep is None else tensor.index_select(0, keep)

        changed = call.equal is False and returned.experts is not None and returned.weights is not None
        return Record(
            router=gate.router,
            logits=kept(copied(used.logits, torch.float32)),
            experts=experts if keep is None else experts[keep],
            weights=weights if keep is None else weights[keep],
            token_ids=labels.token_ids,
            positions=labels.positions,
            documents=labels.documents,
            gate=gate,
            returned_experts=kept(copied(returned.experts if changed else None, torch.int64)),
            returned_weights=kept(copied(returned.weights if changed else None, torch.float32)),
            misplaced=misplaced(call),
            executed=sum(call.executed.values()),
            inputs=kept(call.inputs) if self._keep_inputs else None,
            routed=kept(norms(call.routed, total, gate.router.output_factor or 1.0)),
            shared=kept(norms(call.gated_shared, total)),
            residual=kept(call.residual if call.residual is not None and call.residual.shape[0] == total else None),
        )

    def _labels(self, total: int, path: str, device: torch.device) -> RowLabels:
        """Labels of the rows of the router at ``path``; the same tensors for all routers that see the same rows."""
        frame = self._scopes.now
        before = self._pass.labels
        # Token types tell the rows of one router from those of another.
        if before is not None and before[:3] == (frame, total, device) and not frame.types:
            return before[3]
        labels = RowLabels.of(frame, total, path, device, self._pass.documents, self._pass.kept)
        self._pass.labels = (frame, total, device, labels)
        return labels


def record(model: nn.Module, *, keep_inputs: bool = False) -> Recording:
    """Record the routing of ``model`` while the block runs; its outputs stay as they are.

    Behind torch.compile, data parallelism and PEFT the routers have the paths that they have without. Compiled code
    runs uncompiled in the block, since a compiled graph calls no hooks.

        with moeprobe.record(model) as recording:
            model(**batch)
        for r in recording.records:
            r.router.path, r.logits, r.experts, r.weights

    Args:
        model: any model with routers that moeprobe can find, or a gate on its own.
        keep_inputs: also keep the routers' inputs (hidden size x tokens x layers numbers).

    Raises:
        NotMoEError: no router was found.
        RecordingError: the same recording is entered twice, or no hook sees what the model does (TorchScript).

    Warns:
        RuntimeWarning: no router was called while the block ran.

    """
    return Recording(model, keep_inputs=keep_inputs, warns=True)
