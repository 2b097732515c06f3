"""Patient: a loaded checkpoint that can be damaged, and is bit for bit as before when the block ends."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import moeprobe
from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.recipe import ProbeRecipe
from moeprobe.routers.gate import Gate
from moeprobe.routers.rule import same_set

ROOT = Path(__file__).parent.parent
CHECKPOINTS = {
    "deepseek_v4": ROOT / "moeprobe/demo/tiny-deepseek-v4",
    "deepseek_v3": ROOT / "tests/checkpoints/deepseek_v3",
    "mixtral": ROOT / "tests/checkpoints/mixtral",
    "qwen2_moe": ROOT / "tests/checkpoints/qwen2_moe",
    "qwen3_moe": ROOT / "tests/checkpoints/qwen3_moe",
}
SAMPLE = ProbeRecipe(max_tokens=2048, max_length=128)
"""What the healthy model's router inputs are recorded on; every probe of at least as many tokens contains it."""


@dataclass(eq=False)
class Site:
    """One router of a patient: its live tensors and what it is given by the healthy model."""

    gate: Gate
    router: nn.Module
    block: nn.Module
    experts: nn.Module
    inputs: Tensor
    """[tokens, hidden] float32, on ``SAMPLE``."""

    @property
    def layer(self) -> int | None:
        """Index of the decoder layer."""
        return self.gate.router.layer

    @property
    def count(self) -> int:
        """Number of experts."""
        return self.gate.router.experts

    @property
    def weight(self) -> Tensor:
        """The gate matrix itself, [experts, hidden]."""
        assert self.gate.weight is not None
        return self.gate.weight

    @property
    def bias(self) -> Tensor | None:
        """The selection bias itself, [experts]."""
        return self.gate.selection_bias

    @property
    def table(self) -> Tensor | None:
        """The hash table itself, [vocabulary, k]."""
        return self.gate.table

    @property
    def function(self) -> str | None:
        """Name of the score function."""
        return self.gate.router.score_function

    @cached_property
    def one(self) -> Tensor:
        """The direction v [hidden] that every input has nearly the same product with: inputs @ v is about 1."""
        x = self.inputs.double()
        square = x.T @ x + 1e-4 * float(x.square().sum(dim=-1).mean()) * torch.eye(x.shape[1], dtype=torch.float64)
        return torch.linalg.solve(square, x.sum(dim=0)).float()

    def logits(self, inputs: Tensor | None = None) -> Tensor:
        """Logits [tokens, experts] in float32 with the present gate."""
        found = self.gate.logits(self.inputs if inputs is None else inputs)
        assert found is not None
        return found

    def scores(self, inputs: Tensor | None = None) -> Tensor:
        """Scores [tokens, experts] with the present gate."""
        found = self.gate.scores(self.logits(inputs))
        assert found is not None
        return found

    def chosen(self, inputs: Tensor | None = None) -> Tensor:
        """Experts [tokens, k] that the present gate and bias choose."""
        return self.gate.choose(self.gate.selection(self.scores(inputs)))

    def modal_share(self, inputs: Tensor | None = None) -> float:
        """Share of tokens with the most frequent set of experts."""
        _, counts = torch.unique(self.chosen(inputs).sort(dim=-1).values, dim=0, return_counts=True)
        return float(counts.max() / counts.sum())

    def bias_share(self) -> float:
        """Share of tokens whose experts the bias alone gives."""
        alone = self.gate.choose(self.gate.selection(torch.zeros_like(self.scores())))
        return float(same_set(alone, self.chosen()).double().mean())

    def max_vio(self, biased: bool = True) -> float:
        """Load of the busiest expert over the mean, minus 1."""
        chosen = self.gate.choose(self.gate.selection(self.scores(), biased=biased))
        load = torch.bincount(chosen.flatten(), minlength=self.count).double()
        return float(load.max() / load.mean() - 1)


class Patient:
    """A checkpoint in memory. ``damaged`` is the only way to change it."""

    def __init__(self, name: str, dtype: str) -> None:
        checkpoint = open_checkpoint(CHECKPOINTS[name])
        self.name, self.dtype = name, dtype
        self.model = load_model(checkpoint, dtype=dtype).model
        self.tokenizer = load_tokenizer(checkpoint)
        self.sites = self._sites()

    def _sites(self) -> list[Site]:
        batches = make_batches(load_documents("builtin"), self.tokenizer, SAMPLE)
        inputs: dict[str, list[Tensor]] = {}
        with moeprobe.record(self.model, keep_inputs=True) as recording, torch.no_grad():
            for batch in batches:
                self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        for record in recording.records:
            assert record.inputs is not None
            inputs.setdefault(record.router.path, []).append(record.inputs.float())
        found = []
        for site, gate in zip(recording.sites, recording.gates, strict=True):
            assert site.block is not None
            assert site.experts is not None
            found.append(Site(gate, site.router, site.block, site.experts, torch.cat(inputs[site.path])))
        return found

    @contextmanager
    def damaged(self) -> Iterator[ExitStack]:
        """Whatever is done to the model inside, it is undone at the end; hooks go on the stack."""
        modules = [(module, _state(module)) for module in self.model.modules()]
        tensors = [(t, t.detach().clone()) for t in [*self.model.parameters(), *self.model.buffers()]]
        config = dict(vars(self.model.config))
        implementation = getattr(self.model.config, "_experts_implementation", None)
        try:
            with ExitStack() as stack, torch.no_grad():
                yield stack
        finally:
            for module, state in modules:
                _restore(module, state)
            with torch.no_grad():
                for tensor, value in tensors:
                    tensor.copy_(value)
            vars(self.model.config).clear()
            vars(self.model.config).update(config)
            if implementation is not None and self.model.config._experts_implementation != implementation:
                self.model.set_experts_implementation(implementation)
        assert all(torch.equal(tensor, value) for tensor, value in tensors), "the model was not restored"


_SCALARS = (bool, int, float, str)


def _state(module: nn.Module) -> dict[str, Any]:
    kept = {name: dict(vars(module)[name]) for name in ("_parameters", "_buffers", "_modules")}
    plain = {name: value for name, value in vars(module).items() if isinstance(value, _SCALARS)}
    return kept | {"plain": plain}


def _restore(module: nn.Module, state: dict[str, Any]) -> None:
    for name in ("_parameters", "_buffers", "_modules"):
        vars(module)[name].clear()
        vars(module)[name].update(state[name])
    vars(module).update(state["plain"])


@dataclass
class Wound:
    """Where a fault goes and how strong it is; whatever is random comes from ``random``."""

    patient: Patient
    site: Site
    strength: float
    random: random.Random
    stack: ExitStack
    experts: list[int] = field(default_factory=list)
    """Filled in by the fault: the experts that it damaged."""
    layer: int | None = None
    """Filled in by the fault where the damage shows at another layer than the site's."""

    def pick(self, count: int = 1) -> list[int]:
        """Random experts, noted as damaged."""
        self.experts = sorted(self.random.sample(range(self.site.count), count))
        return self.experts
