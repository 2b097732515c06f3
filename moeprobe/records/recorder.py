"""Recording: a context manager that records the routing of a model's own forward passes."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.errors import NotMoEError, RecordingError
from moeprobe.findings.router import Router
from moeprobe.records.capture import Capture
from moeprobe.records.record import Record
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.read import read_gate
from moeprobe.routers.verify import verify

Sink = Callable[[Record], None]


class Recording:
    """What a recording saw.

    ``records`` holds one ``Record`` per router call, in the order of the calls (empty where a sink took them).
    ``routers`` are the facts of every router that fired; ``unread`` maps the path of every router that could not
    be recorded to the reason. ``failure`` is set by whoever runs the model, if a forward pass failed.
    """

    def __init__(self, model: nn.Module, sink: Sink | None = None, keep_inputs: bool = False) -> None:
        self.model = model
        self.records: list[Record] = []
        self.unread: dict[str, str] = {}
        self.failure: str | None = None
        self._sink = sink if sink is not None else self.records.append
        self._keep_inputs = keep_inputs
        self._gates: dict[str, Gate] = {}
        self._relatives: dict[type[nn.Module], Gate] = {}
        self._handles: list[RemovableHandle] = []
        self._sites = find_sites(model)
        self._captures: list[Capture] = []
        self._fired: dict[str, int] = {}
        self._mask: Tensor | None = None
        self._token_ids: Tensor | None = None
        self._documents: Tensor | None = None
        self._kept: Tensor | None = None
        if not self._sites:
            raise NotMoEError(
                f"No router was found in {type(model).__name__}: it is a dense model, or of a kind that moeprobe "
                "does not know."
            )

    @property
    def sites(self) -> list[Site]:
        """The routed sites of the model, whether they fired or not."""
        return self._sites

    @property
    def gates(self) -> list[Gate]:
        """Facts and tensors of the routers that fired, in the order of the model's modules."""
        return [self._gates[site.path] for site in self._sites if site.path in self._gates]

    @property
    def routers(self) -> list[Router]:
        """Facts of the routers that fired."""
        return [gate.router for gate in self.gates]

    def label(self, documents: Tensor, keep: Tensor) -> None:
        """Name the rows of the next forward pass: the document of each row [rows], and which tokens to record.

        Args:
            documents: [rows] int64, index of the document that each row of the batch comes from.
            keep: [rows, length] bool, the tokens to record (instead of the attention mask's).

        """
        self._documents, self._kept = documents, keep

    def __enter__(self) -> Self:
        if self._handles:
            raise RecordingError("This recording is already running; make a new one with moeprobe.record(model).")
        self._captures = [Capture(site, self._take) for site in self._sites]
        try:
            root = self.model
            self._handles.append(root.register_forward_pre_hook(self._begins, with_kwargs=True, prepend=True))
            self._handles.append(root.register_forward_hook(self._ends))
            for capture in self._captures:
                self._handles += capture.attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._captures = []

    def _begins(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for capture in self._captures:
            capture.reset()
        self._fired = {}
        ids = kwargs.get("input_ids", args[0] if args and isinstance(args[0], Tensor) else None)
        self._token_ids = ids if isinstance(ids, Tensor) and not ids.is_floating_point() and ids.ndim == 2 else None
        mask = kwargs.get("attention_mask")
        if mask is None and len(args) > 1 and isinstance(args[1], Tensor):
            mask = args[1]
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def _ends(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._documents = self._kept = None
        for site in self._sites:
            if self._fired.get(site.path, 0) == 0 and site.path not in self._gates:
                self.unread.setdefault(site.path, "the router never fired: the model's forward pass goes around it")

    def _take(self, site: Site, call: RouterCall) -> None:
        if not call.router_calls:
            return
        self._fired[site.path] = self._fired.get(site.path, 0) + call.router_calls
        try:
            gate = self._gate(site, call)
        except ValueError as error:
            self.unread[site.path] = str(error)
            return
        self._sink(self._record(gate, call))

    def _gate(self, site: Site, call: RouterCall) -> Gate:
        known = self._gates.get(site.path)
        if known is None:
            gate = read_gate(site, call, getattr(self.model, "config", None), self._relatives.get(type(site.router)))
            if gate.router.fit_error is not None and not gate.router.biased_weights:
                self._relatives.setdefault(type(site.router), gate)
            verified, reason = verify(site, call)
        else:
            gate = known
            verified, reason = verify(site, call) if known.router.verified else (False, known.router.reason)
        if self._fired[site.path] > 1:
            verified, reason = False, "the router fired more than once in one forward pass"
        if known is None or verified != gate.router.verified:
            gate = gate.with_router(gate.router.model_copy(update={"verified": verified, "reason": reason}))
            self._gates[site.path] = gate
        return gate

    def _record(self, gate: Gate, call: RouterCall) -> Record:
        experts = call.given_experts if call.given_experts is not None else call.experts
        weights = call.given_weights if call.given_weights is not None else call.weights
        assert experts is not None
        assert weights is not None
        total = experts.shape[0]
        token_ids, positions, documents, keep = self._rows(total, experts.device)
        factor = gate.router.output_factor or 1.0
        changed = call.equal is False
        record = Record(
            router=gate.router,
            logits=None if call.logits is None else call.logits.float().clone(),
            experts=experts.long().clone(),
            weights=weights.float().clone(),
            token_ids=token_ids,
            positions=positions,
            documents=documents,
            gate=gate,
            returned_experts=call.experts.long().clone() if changed and call.experts is not None else None,
            returned_weights=call.weights.float().clone() if changed and call.weights is not None else None,
            inputs=call.inputs if self._keep_inputs else None,
            routed=_norms(call.routed, total, factor),
            shared=_norms(call.gated_shared, total),
            residual=_norms(call.norm_inputs, total),
        )
        return record if keep is None else record.select(keep)

    def _rows(self, total: int, device: torch.device) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Token ids, positions, documents and the rows to keep, where the batch explains the router's rows."""
        shaped = self._token_ids if self._token_ids is not None else self._mask
        count = 1 if shaped is None or total % shaped.shape[0] else shaped.shape[0]
        length = total // count
        positions = torch.arange(length, device=device).repeat(count)
        documents = torch.arange(count, device=device).repeat_interleave(length)
        if self._documents is not None and self._documents.shape[0] == count:
            documents = self._documents.to(device).repeat_interleave(length)
        ids = self._token_ids
        token_ids = ids.reshape(-1).to(device) if ids is not None and ids.numel() == total else None
        keep = self._kept if self._kept is not None else self._mask
        if keep is None or keep.shape[0] != count or keep.shape[1] < length:
            return token_ids, positions, documents, None
        # While generating, the mask also covers the tokens that are in the cache.
        cached = keep.shape[1] - length
        return token_ids, positions + cached, documents, keep[:, cached:].reshape(-1).bool().to(device)


def _norms(tensor: Tensor | None, total: int, factor: float = 1.0) -> Tensor | None:
    """L2 norm of each row in float32; None where the rows are not the router's rows."""
    if tensor is None or tensor.shape[0] != total:
        return None
    norms: Tensor = torch.linalg.vector_norm(tensor.float(), dim=-1)
    return norms * factor


def record(model: nn.Module, *, keep_inputs: bool = False) -> Recording:
    """Record the routing of ``model`` while the block runs; its outputs stay as they are.

        with moeprobe.record(model) as recording:
            model(**batch)
        for r in recording.records:
            r.router.path, r.logits, r.experts, r.weights

    Args:
        model: any model with routers that moeprobe can find, or a gate on its own.
        keep_inputs: also keep the routers' inputs (hidden size x tokens x layers numbers).

    Raises:
        NotMoEError: no router was found.
        RecordingError: the same recording is entered twice.

    """
    return Recording(model, keep_inputs=keep_inputs)
