"""Case: one tiny model of the zoo, how it is called, and how the truth about its routing is captured."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_GATE = re.compile(r"(^|\.)(gate|router|wg|classifier|router_gate)(\.|$)|router")
_BIAS = re.compile(r"correction_bias|expert_bias|balancing_bias")


@dataclass
class Taken:
    """What one routed site executed in one call: rows of the router, padding included.

    ``chosen`` [rows, columns] bool says which experts took the row, ``weights`` [rows, columns] float32 with which
    routing weight (0 where not chosen). ``logits`` [rows, columns] float32 are those of the router's own output,
    None where it returns none.
    """

    chosen: Tensor
    weights: Tensor
    logits: Tensor | None = None


Truth = dict[str, list[Taken]]
"""Router path -> its calls, in order."""


def text(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Arguments of a plain text model."""
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    """One tiny model.

    Attributes:
        name: ``family`` or ``family:variant``, as in docs/families.md.
        build: makes the model from a config (vocabulary of ``VOCABULARY`` ids, at most 4 layers, 8 experts).
        truth: a context manager that captures what the experts execute, without any hook: it replaces forwards.
        sites: number of routed sites that ``inputs`` reach.
        silent: number of routed sites that they do not reach (the vision experts under text).
        inputs: arguments of the forward pass from ids and mask, each [batch, length].
        auto: the auto class that loads a saved checkpoint of it, None where there is none.
        backends: whether ``set_experts_implementation`` applies to it.
        generates: whether it can continue a text.
    """

    name: str
    build: Callable[[], nn.Module]
    truth: Callable[[nn.Module], AbstractContextManager[Truth]]
    sites: int
    silent: int = 0
    inputs: Callable[[Tensor, Tensor], dict[str, Any]] = text
    auto: str | None = "AutoModelForCausalLM"
    backends: bool = True
    generates: bool = True

    @property
    def family(self) -> str:
        """Name of the modelling folder in transformers."""
        return self.name.partition(":")[0]


VOCABULARY = 320
"""Ids of the zoo's byte-level tokenizer, with room for the special ids of composite models (from 300)."""


def build(case: Case, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The seeded model in eval mode; gates have a preference, selection biases are not zero."""
    torch.manual_seed(0)
    model = case.build()
    with torch.no_grad():
        for name, tensor in _routing_tensors(model):
            if "tid2eid" in name:
                order = torch.rand(tensor.shape[0], 8).argsort(dim=-1)
                tensor.copy_(order[:, : tensor.shape[1]])
            else:
                # A tensor of ones is a factor or the weight of a norm: it stays near one, else it could change signs.
                tensor.normal_(mean=float(tensor.eq(1).all()), std=0.05 if _BIAS.search(name) else 0.3)
            if "balancing_biases" in name:
                # Loading a checkpoint sets Zaya's last one, of the skip, to -1: no other one may stand above it.
                tensor.sub_(1 + tensor.max())[-1] = -1
    if dtype is not torch.float32:
        model = _reloaded(case, model, dtype)
    return model.eval()


def _reloaded(case: Case, model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """As a user gets it in another dtype: loading keeps some tensors in float32, ``model.to`` does not."""
    if case.auto is None:
        return model.to(dtype)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return getattr(transformers, case.auto).from_pretrained(folder, dtype=dtype)


def _routing_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        matches = _GATE.search(name) or _BIAS.search(name)
        if "tid2eid" in name or (matches and tensor.is_floating_point() and "shared" not in name):
            yield name, tensor


def batch(padding: str = "right") -> tuple[Tensor, Tensor]:
    """Ids and mask, [3, 16] int64, of three documents of 16, 11 and 5 tokens."""
    ids = torch.randint(3, 250, (3, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, length in enumerate((16, 11, 5)):
        if padding == "right":
            mask[row, length:] = 0
        else:
            mask[row, : 16 - length] = 0
    return ids, mask


def arguments(case: Case, model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """The case's inputs for ``model``: images and embeddings in the dtype of its parameters."""
    dtype = next(model.parameters()).dtype
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in case.inputs(ids, mask).items()
    }
