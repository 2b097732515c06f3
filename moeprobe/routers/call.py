"""RouterCall: what was seen at one site during one forward pass."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from moeprobe.routers.routing import UNUSED, Routing


@dataclass(eq=False)
class RouterCall:
    """Everything that the hooks saw at one site in one forward pass of its block.

    ``returned`` is what the router decided; ``given`` are experts and weights among the arguments that the
    experts module received: the authority on what was used. ``equal`` says whether what ran is, bit for bit,
    what the router decided (None where that cannot be compared), ``executed`` how many rows each expert took,
    where every expert is a module of its own. ``skips``: the logits have more columns than there are experts, and
    a row that chooses none of them is handed on with weight 0 (Zaya), which is an unused slot. ``behind``: the
    router returned probabilities, and the logits are what was found behind them. ``residual`` holds the L2
    norm of each row of ``norm_inputs``. Other tensors are flattened to [rows, width]; rows are batch x sequence,
    padding included.
    """

    router_calls: int = 0
    experts_calls: int = 0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = None
    returned: Routing = field(default_factory=Routing)
    given: Routing = field(default_factory=Routing)
    equal: bool | None = None
    executed: dict[int, int] = field(default_factory=dict)
    routed: Tensor | None = None
    shared: Tensor | None = None
    shared_gate: Tensor | None = None
    skips: bool = False
    behind: bool = False
    block_inputs: Tensor | None = None
    block_output: Tensor | None = None
    norm_path: str | None = None
    norm_inputs: Tensor | None = None
    norm_output: Tensor | None = None
    residual: Tensor | None = None

    @property
    def used(self) -> Routing:
        """The experts and weights that were used, and the router's logits."""
        experts = self.returned.experts if self.given.experts is None else self.given.experts
        weights = self.returned.weights if self.given.weights is None else self.given.weights
        if self.skips and experts is not None and weights is not None:
            experts = experts.masked_fill(weights == 0, UNUSED)
        return Routing(experts, weights, self.returned.logits)

    @property
    def gated_shared(self) -> Tensor | None:
        """Output of the shared expert behind its own gate, [rows, hidden]; None where there is none."""
        if self.shared is None or self.shared_gate is None:
            return self.shared
        return self.shared * self.shared_gate.sigmoid()
