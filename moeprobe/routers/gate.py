"""Gate: a router's facts together with the live tensors that recompute its choice in float32."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.routers.rule import choose, scores, selection_scores


@dataclass(frozen=True, eq=False)
class Gate:
    """Facts and tensors of one router.

    ``weight`` [columns, hidden] and ``logit_bias`` [columns] are None where the logits are not their product
    with the router's input (soft-capped logits, quantised gates). ``selection_bias`` [columns], ``table``
    [vocabulary, k] of a hash router, ``gamma`` [hidden] of a verified RMS norm right before the router, ``gain``
    [hidden] the stored weight of the norm whose name says that it stands before the block, where nothing ran.
    ``expert_scale`` [experts] factors that the routing weights hold for each expert.
    """

    router: Router
    weight: Tensor | None = None
    logit_bias: Tensor | None = None
    selection_bias: Tensor | None = None
    table: Tensor | None = None
    gamma: Tensor | None = None
    expert_scale: Tensor | None = None
    gain: Tensor | None = None

    def with_router(self, router: Router) -> "Gate":
        """The same tensors under other facts."""
        return replace(self, router=router)

    def logits(self, inputs: Tensor) -> Tensor | None:
        """Logits [rows, columns] recomputed in float32 from the router's input [rows, hidden]."""
        if self.weight is None:
            return None
        weight = self.weight.float().to(inputs.device)
        bias = None if self.logit_bias is None else self.logit_bias.float().to(inputs.device)
        if not torch.is_autocast_enabled(inputs.device.type):
            return F.linear(inputs.float(), weight, bias)
        with torch.autocast(inputs.device.type, enabled=False):
            return F.linear(inputs.float(), weight, bias)

    def scores(self, logits: Tensor) -> Tensor | None:
        """Scores of ``logits`` in their own dtype; None where no score function was identified."""
        function = self.router.score_function
        return None if function is None else scores(logits, function)

    def selection(self, score: Tensor, logits: Tensor | None = None, biased: bool = True) -> Tensor:
        """What the top-k looks at, [rows, columns]; ``biased=False`` leaves the selection bias out.

        ``logits`` are needed where the selection bias is added to them (``Router.bias_on``).
        """
        bias = self.selection_bias if biased else None
        ranked = logits if logits is not None and self.router.bias_on == "logits" else score
        return selection_scores(ranked, None if bias is None else bias.to(ranked.device), self.router.groups)

    def unscaled(self, weights: Tensor, experts: Tensor) -> Tensor:
        """Routing weights [rows, k] of ``experts`` [rows, k] without the factors of the experts."""
        if self.expert_scale is None:
            return weights
        scale = self.expert_scale.to(weights.device, weights.dtype)
        return weights / scale[experts.clamp(0, scale.shape[0] - 1)]

    def choose(self, selection: Tensor) -> Tensor:
        """The experts [rows, k] that these selection scores choose, best first."""
        return choose(selection, self.router.top_k)
