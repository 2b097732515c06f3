"""Budget: what a model needs in memory, whole, by layer and by expert, and what is there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moeprobe.checkpoint.memory import format_size, free_memory
from moeprobe.checkpoint.streamed import Layout
from moeprobe.errors import StreamError
from moeprobe.probes.batches import Batches
from moeprobe.routers.layout import layer_of_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONVERTING = 2
"""Times its own size that a layer takes while its experts are stacked."""
_EXPERT_CONVERTING = 4
"""The same for one expert: as it is stored, as read into numbers, and stacked, beside the one that is in use."""
_ROOM = 0.6
"""Share of the memory that weights may take before experts are read one at a time; the rest is for hidden states."""


@dataclass(frozen=True)
class Budget:
    """Bytes: the whole model in memory, what stands outside of its layers, its largest layer with and without the
    experts that can be read one at a time, the largest of these experts, and the memory that there is.
    """

    whole: int
    outside: int
    layer: int
    without_experts: int
    expert: int
    memory: int

    @property
    def exceeded(self) -> bool:
        """Whether the whole model is too large."""
        return self.whole > self.memory

    def needed(self, by_expert: bool) -> int:
        """Most that weights take at any time."""
        if by_expert:
            converting = max(
                _CONVERTING * self.without_experts, self.without_experts + _EXPERT_CONVERTING * self.expert
            )
            return self.outside + converting
        return self.outside + _CONVERTING * self.layer

    def by_expert(self, as_begun: bool | None = None) -> bool:
        """Whether experts are to be read one at a time; ``as_begun`` is how an earlier run has read them.

        Raises:
            StreamError: the memory suffices in neither way, or not in that of the earlier run.

        """
        if as_begun is not None:
            if self.needed(as_begun) >= self.memory:
                raise StreamError(
                    f"The interrupted analysis needs {format_size(self.needed(as_begun))} for weights alone, and there "
                    f"are {format_size(self.memory)}; free some memory, or begin anew with --restart."
                )
            return as_begun
        if self.needed(False) <= _ROOM * self.memory or (not self.expert and self.needed(False) < self.memory):
            return False
        if self.expert and self.needed(True) < self.memory:
            return True
        least = min(self.needed(False), self.needed(True)) if self.expert else self.needed(False)
        raise StreamError(
            f"Streaming needs {format_size(least)} for weights alone (the largest layer has "
            f"{format_size(self.layer)}), and there are {format_size(self.memory)}; free some memory, or give more "
            f"with --memory."
        )

    def announce(self, source: str, by_expert: bool) -> str:
        """The sentence that tells the user."""
        unit = "expert" if by_expert else "layer"
        than = "but" if self.exceeded else "and"
        return (
            f"{source} would take {format_size(self.whole)} in memory, {than} there are {format_size(self.memory)}; "
            f"it is streamed, one {unit} at a time, and read once (about {format_size(self.needed(by_expert))} at most "
            f"beside the hidden states)."
        )


def budget(model: "PreTrainedModel", layout: Layout, dtype: str, memory: int | None, device: str | None) -> Budget:
    """The budget of a model.

    Args:
        model: its skeleton, on the meta device.
        layout: where it can be cut.
        dtype: what it will run in, or "auto".
        memory: bytes that may be used; what is free without it.
        device: that it will run on, None for the CPU.

    """
    wanted = None if dtype == "auto" else getattr(torch, dtype)

    def size(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
        return {
            name: tensor.numel() * (wanted or tensor.dtype).itemsize if tensor.is_floating_point() else tensor.nbytes
            for name, tensor in tensors
        }

    head: Any = model.get_output_embeddings()
    unread = {id(tensor) for tensor in head.parameters()} if head is not None else set()
    sizes = size(model.named_parameters())
    layers = dict.fromkeys(layout.layers, 0)
    experts = dict.fromkeys(layout.experts or {}, 0)
    outside = 0
    for name, tensor in model.named_parameters():
        owner = name.rpartition(".")[0]
        if any(name.startswith(f"{layer}.") for layer in layout.layers):
            layers[layer_of_path(layout, name)] += sizes[name]
            if owner in experts:
                experts[owner] += sizes[name]
        elif id(tensor) not in unread:
            outside += sizes[name]
    bare = dict(layers)
    for path, total in experts.items():
        bare[layer_of_path(layout, path)] -= total
    single = [total // (layout.experts or {})[path] for path, total in experts.items()]
    return Budget(
        whole=sum(sizes.values()),
        outside=outside,
        layer=max(layers.values()),
        without_experts=max(bare.values()),
        expert=max(single, default=0),
        memory=memory if memory is not None else _free(device),
    )


def _free(device: str | None) -> int:
    if device is None or torch.device(device).type != "cuda":
        return free_memory()
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return int(free)


def refuse_too_many(budget: Budget, by_expert: bool, batches: Batches, config: Any, waiting: int) -> None:
    """Refuse a probe whose hidden states do not fit beside the weights.

    Args:
        budget: what there is.
        by_expert: how the weights are read.
        batches: the probe.
        config: the model's.
        waiting: bytes that the first batch holds while it waits before a layer.

    Raises:
        StreamError: it is too long; the message says how many tokens fit.

    """
    text = config.get_text_config()
    width = int(text.hidden_size) * 4  # at most float32
    slots = max((value for value in (getattr(text, "num_experts_per_tok", 2),) if isinstance(value, int)), default=2)
    first = batches.batches[0].input_ids
    each = waiting / first.numel()
    if by_expert:
        # The rows that every chosen expert gives back are kept until the last one has run.
        each += (slots + 4) * width / 2
    largest = max(batch.input_ids.numel() for batch in batches)
    working = largest * (slots + 8) * width / 2
    padded = sum(batch.input_ids.numel() for batch in batches)
    left = budget.memory - budget.needed(by_expert) - working
    fit = int(max(left, 0) / each * batches.tokens / padded)
    if fit < batches.tokens:
        advice = f"give --max-tokens {fit}, or more --memory" if fit > 0 else "give more --memory, or a smaller batch"
        raise StreamError(
            f"The hidden states of {batches.tokens:,} tokens do not fit beside the weights into "
            f"{format_size(budget.memory)}: at most {fit:,} tokens do; {advice}."
        )
