"""The hooks of one site. Every hook returns None: a hook that returns something replaces the output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.routers.call import RouterCall, first_float, read_experts_arguments, read_output, rows
from moeprobe.routers.find import Site


class Capture:
    """Collects one ``RouterCall`` per pass through the site's block and hands it on when the block is done."""

    def __init__(self, site: Site, done: Callable[[Site, RouterCall], None]) -> None:
        self.site = site
        self.call = RouterCall()
        self._done = done
        self._norm_calls: dict[str, tuple[Tensor, Tensor]] = {}
        self._norm_path: str | None = None

    def attach(self) -> list[RemovableHandle]:
        """Register all hooks of the site."""
        site = self.site
        handles = [site.router.register_forward_hook(self._router, with_kwargs=True)]
        if site.experts is not None:
            handles.append(site.experts.register_forward_pre_hook(self._experts_arguments, with_kwargs=True))
            handles.append(site.experts.register_forward_hook(self._experts_output))
        if site.shared is not None:
            handles.append(site.shared.register_forward_hook(self._shared))
        if site.shared_gate is not None:
            handles.append(site.shared_gate.register_forward_hook(self._shared_gate))
        for path, norm in site.norms:
            handles.append(norm.register_forward_hook(self._norm(path)))
        if site.block is not None:
            handles.append(site.block.register_forward_pre_hook(self._block_begins, with_kwargs=True))
            handles.append(site.block.register_forward_hook(self._block_ends))
        return handles

    def reset(self) -> None:
        """Forget a pass that did not end (an exception in the model)."""
        self.call = RouterCall()
        self._norm_calls.clear()

    def _router(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self.call
        call.router_calls += 1
        call.args, call.kwargs = args, kwargs
        given = first_float((*args, *kwargs.values()))
        call.inputs = None if given is None else rows(given)
        call.logits, call.experts, call.weights = read_output(output, self.site.logits_index)
        if self.site.block is None:
            self._finish()

    def _experts_arguments(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self.call
        call.experts_calls += 1
        # Copies: some experts overwrite their arguments in place.
        experts, weights = read_experts_arguments(args, kwargs)
        call.given_experts = None if experts is None else experts.clone()
        call.given_weights = None if weights is None else weights.clone()
        if experts is not None and call.experts is not None and weights is not None and call.weights is not None:
            call.equal = same_bits(experts, call.experts) and same_bits(weights, call.weights)

    def _experts_output(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self.call.routed = None if found is None else rows(found)

    def _shared(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self.call.shared = None if found is None else rows(found)

    def _shared_gate(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.call.shared_gate = rows(output)

    def _norm(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            given = first_float(args)
            if given is not None and isinstance(output, Tensor) and self._norm_path in (None, path):
                self._norm_calls[path] = (given, output)

        return hook

    def _block_begins(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = first_float((*args, *kwargs.values()))
        if given is None:
            return
        for path, (inputs, output) in self._norm_calls.items():
            # The norm before the router is the one whose output this very tensor is.
            if output.data_ptr() == given.data_ptr() and output.numel() == given.numel() and given.numel():
                self._norm_path = path
                self.call.norm_path = path
                self.call.norm_inputs, self.call.norm_output = rows(inputs), rows(output)
        self._norm_calls.clear()
        self.call.block_inputs = rows(given)

    def _block_ends(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self.call.block_output = None if found is None else rows(found)
        self._finish()

    def _finish(self) -> None:
        call, self.call = self.call, RouterCall()
        self._done(self.site, call)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN equal to NaN; the dtype of integers is free."""
    if first.shape != second.shape:
        return False
    if first.is_floating_point() != second.is_floating_point():
        return False
    if not first.is_floating_point():
        return bool(torch.equal(first.long(), second.long().to(first.device)))
    if first.dtype != second.dtype:
        return False
    second = second.to(first.device)
    return bool(((first == second) | (first.isnan() & second.isnan())).all())
