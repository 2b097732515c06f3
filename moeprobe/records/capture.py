"""The hooks of one site. Every hook returns None: a hook that returns something replaces the output."""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.records.known import Habit
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site, expert_count
from moeprobe.routers.probabilities import is_probabilities, logits_behind
from moeprobe.routers.routing import Routing, first_float, lengths, read_arguments, read_output, rows
from moeprobe.routers.verify import same_routing
from moeprobe.routers.watched import routing_by_rows
from moeprobe.routers.wrapped import inner


class _Pass(threading.local):
    """What one pass through the block has shown so far: of every thread that runs the model its own."""

    def __init__(self) -> None:
        self.call = RouterCall()
        self.inside = False
        self.ran: dict[int, tuple[Tensor, Tensor]] = {}
        self.norm_calls: dict[str, tuple[Tensor, Tensor]] = {}


class Capture:
    """Collects one ``RouterCall`` per pass through the site's block and hands it on when the block is done.

    Where the block is not called as a module (its methods are), the call is handed on after the experts have
    run, or, where they never do, when ``flush`` is called.
    """

    def __init__(self, site: Site, done: Callable[[Site, RouterCall], None], habit: Habit | None = None) -> None:
        self.site = site
        self._done = done
        self._pass = _Pass()
        self._counted: dict[int, int] = {}
        before = habit or Habit()
        self._probabilities, self._norm_path = before.probabilities, before.norm_path

    @property
    def habit(self) -> Habit:
        """What was learned of the site so far."""
        return Habit(probabilities=self._probabilities, norm_path=self._norm_path)

    def attach(self) -> list[RemovableHandle]:
        """Register all hooks of the site."""
        site = self.site
        handles = [site.router.register_forward_hook(self._router, with_kwargs=True)]
        if site.experts is not None:
            handles.append(site.experts.register_forward_pre_hook(self._experts_arguments, with_kwargs=True))
            handles.append(site.experts.register_forward_hook(self._experts_output))
        for index, expert in enumerate(site.expert_modules):
            handles.append(expert.register_forward_hook(self._expert(index), with_kwargs=True))
        if site.shared is not None:
            handles.append(site.shared.register_forward_hook(self._shared))
        if site.shared_gate is not None:
            handles.append(site.shared_gate.register_forward_hook(self._shared_gate))
        for path, norm in site.norms:
            if self._norm_path in (None, path):
                handles.append(norm.register_forward_hook(self._norm(path)))
        if site.block is not None:
            handles.append(site.block.register_forward_pre_hook(self._block_begins, with_kwargs=True))
            handles.append(site.block.register_forward_hook(self._block_ends))
        return handles

    def reset(self) -> None:
        """Forget a pass that did not end (an exception in the model)."""
        self._pass.call = RouterCall()
        self._pass.inside = False
        self._pass.ran.clear()
        self._pass.norm_calls.clear()

    def flush(self) -> None:
        """Hand on what nothing else has ended."""
        if self._pass.call.router_calls:
            self._finish()

    def _router(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._pass.call.router_calls and not self._pass.inside:
            self._finish()
        call, reader = self._pass.call, self.site.reader
        call.router_calls += 1
        call.args, call.kwargs = args, kwargs
        given = first_float((*args, *kwargs.values()))
        call.inputs = None if given is None else rows(given)
        if reader is not None:
            call.returned = reader.read(inner(module), args, kwargs, output)
            # A block that is its own router calls its experts before it ends.
            call.equal = self._compare() if call.experts_calls else None
        else:
            count = None if call.inputs is None else call.inputs.shape[0]
            call.returned = read_output(output, self.site.logits_index, count)
        self._look_behind(module)
        logits = call.returned.logits
        call.skips = logits is not None and logits.shape[-1] > self._experts(logits.shape[-1])
        if self.site.block is None:
            self._finish()

    def _experts(self, columns: int) -> int:
        if columns not in self._counted:
            self._counted[columns] = expert_count(self.site, columns)
        return self._counted[columns]

    def _look_behind(self, router: nn.Module) -> None:
        """Logits are logits: where the router returns probabilities, take what they were made of."""
        logits = self._pass.call.returned.logits
        if self._probabilities is None and logits is not None:
            self._probabilities = is_probabilities(logits)
        if self._probabilities and logits is not None:
            self._pass.call.behind = True
            self._pass.call.returned.logits = logits_behind(
                router, self._pass.call.args, self._pass.call.kwargs, logits
            )

    def _experts_arguments(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call, reader = self._pass.call, self.site.reader
        call.experts_calls += 1
        if reader is not None and reader.executed is not None:
            if call.inputs is not None:
                call.equal = reader.executed(args, kwargs, call.inputs, call.returned)
            return
        logits = call.returned.logits
        given = read_arguments(args, kwargs, None if logits is None else logits.shape[-1])
        call.equal = same_routing(given, call.returned)
        # Copies: some experts overwrite their arguments in place.
        call.given = Routing(
            None if given.experts is None else given.experts.clone(),
            None if given.weights is None else given.weights.clone(),
        )

    def _compare(self) -> bool | None:
        return same_routing(self._pass.call.given, self._pass.call.returned)

    def _expert(self, index: int) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call, taken = self._pass.call, first_float((*args, *kwargs.values()))
            if taken is None:
                return
            call.executed[index] = call.executed.get(index, 0) + taken.shape[:-1].numel()
            if call.used.experts is None and call.returned.logits is not None and isinstance(output, Tensor):
                self._pass.ran[index] = (rows(taken).clone(), rows(output))

        return hook

    def _by_rows(self) -> None:
        """Where nothing showed the choice, tell it from what the experts executed."""
        call, ran = self._pass.call, self._pass.ran
        self._pass.ran = {}
        if not ran or call.inputs is None or call.returned.logits is None or call.block_output is None:
            return
        shared = call.gated_shared
        routed = call.block_output.double() - (0 if shared is None else shared.double())
        found = routing_by_rows(call.inputs, call.returned.logits, ran, routed)
        if found is not None:
            call.returned = found

    def _experts_output(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self._pass.call.routed = None if found is None else rows(found)
        if self._pass.call.router_calls and not self._pass.inside:
            self._finish()

    def _shared(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self._pass.call.shared = None if found is None else rows(found)

    def _shared_gate(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._pass.call.shared_gate = rows(output)

    def _norm(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            given = first_float(args)
            if given is not None and isinstance(output, Tensor):
                self._pass.norm_calls[path] = (given, output)

        return hook

    def _block_begins(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pass.inside = True
        given = first_float((*args, *kwargs.values()))
        if given is None:
            return
        for path, (inputs, output) in self._pass.norm_calls.items():
            # The norm before the router is the one whose output this very tensor is.
            if output.data_ptr() == given.data_ptr() and output.numel() == given.numel() and given.numel():
                self._norm_path = path
                self._pass.call.norm_path = path
                self._pass.call.norm_inputs, self._pass.call.norm_output = rows(inputs), rows(output)
                # Now, while the norm has just read them.
                self._pass.call.residual = lengths(rows(inputs))
        self._pass.norm_calls.clear()
        self._pass.call.block_inputs = rows(given)

    def _block_ends(self, _module: nn.Module, _args: Any, output: Any) -> None:
        found = first_float(output if isinstance(output, tuple | list) else (output,))
        self._pass.call.block_output = None if found is None else rows(found)
        if self._pass.inside:
            self._by_rows()
            self._finish()

    def _finish(self) -> None:
        call, self._pass.call = self._pass.call, RouterCall()
        self._pass.inside = False
        self._done(self.site, call)
