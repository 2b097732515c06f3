"""Measure a checkpoint on held-out text and write its model card."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from checkpoint_table import VOCABULARY, Checkpoint
from corpus import HELD_OUT_PERCENT, KINDS, packages_by_kind
from routing import hash_routers, learned_routers, max_violation, routed_branch_scaled, watch
from text_rows import Rows
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

MULTIPLIERS = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)
ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class Training:
    """How a checkpoint was trained, for the record."""

    steps: int
    tokens: int
    seed: int


@dataclass(frozen=True)
class Report:
    """Everything measured on a finished checkpoint."""

    parameters: int
    unigram_loss: float
    loss_by_kind: dict[str, float]
    violation_by_layer: dict[int, float]
    bias_range_by_layer: dict[int, float]
    loss_by_multiplier: dict[float, float]
    hash_layers: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Held-out loss over all kinds, in nats per token."""
        return sum(self.loss_by_kind.values()) / len(self.loss_by_kind)

    @property
    def best_multiplier(self) -> float:
        """The scale of the routed branch with the lowest held-out loss."""
        return min(self.loss_by_multiplier, key=self.loss_by_multiplier.__getitem__)

    def shortcomings(self) -> list[str]:
        """Say in what the checkpoint falls short of what a trained model shows."""
        found = [
            f"layer {layer}: MaxVio {violation:.2f} is 0.5 or more"
            for layer, violation in self.violation_by_layer.items()
            if violation >= 0.5
        ]
        found += [
            f"layer {layer}: the selection bias spans {spread:.2f}, outside 0 to 1"
            for layer, spread in self.bias_range_by_layer.items()
            if not 0 < spread < 1
        ]
        if self.loss > self.unigram_loss - 1:
            found.append(f"held-out loss {self.loss:.2f} is near a unigram model's {self.unigram_loss:.2f}")
        if not 0.8 <= self.best_multiplier <= 1.25:
            found.append(f"the routed branch is best at {self.best_multiplier} times its scale")
        return found


@torch.no_grad()
def _kind_loss(model: PreTrainedModel, rows: Tensor, counts: dict[int, Tensor] | None = None) -> float:
    """Give the loss over rows; add each router's choices to the counts when they are wanted."""
    losses = []
    with watch(model) as seen:
        for batch in torch.split(rows, ROWS_AT_ONCE):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            losses.append(functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none"))
            if counts is not None:
                for layer, routing in seen.items():
                    counts[layer] = counts.get(layer, 0) + routing.counts()
    return torch.cat(losses).mean().item()


def measure(model: PreTrainedModel, rows: Rows) -> Report:
    """Measure losses, expert load and biases on the held-out rows."""
    model.eval()
    held_out = rows.held_out_rows()
    counts: dict[int, Tensor] = {}
    loss_by_kind = {kind: _kind_loss(model, held_out[kind], counts) for kind in KINDS}
    # A third of the rows tells the multipliers apart, which differ on the same tokens.
    mix = torch.cat([kind_rows[::3] for kind_rows in held_out.values()])
    by_multiplier = {}
    for multiplier in MULTIPLIERS:
        with routed_branch_scaled(model, multiplier):
            by_multiplier[multiplier] = _kind_loss(model, mix)
    biases = {
        layer: router.e_score_correction_bias
        for layer, router in learned_routers(model).items()
        if hasattr(router, "e_score_correction_bias")
    }
    return Report(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        unigram_loss=rows.unigram_loss(),
        loss_by_kind=loss_by_kind,
        violation_by_layer={layer: max_violation(count) for layer, count in counts.items()},
        bias_range_by_layer={layer: (bias.max() - bias.min()).item() for layer, bias in biases.items()},
        loss_by_multiplier=by_multiplier,
        hash_layers=tuple(hash_routers(model)),
    )


def _table(first: str, second: str, values: Mapping[Any, float]) -> str:
    lines = [f"| {first} | {second} |", "| --- | --- |"]
    return "\n".join(lines + [f"| {key} | {value:.3f} |" for key, value in values.items()])


def card(checkpoint: Checkpoint, architecture: str, training: Training, report: Report) -> str:
    """Write the model card from what was measured."""
    sources = "\n".join(f"- {kind}: {', '.join(names)}" for kind, names in packages_by_kind().items())
    balanced_by = {
        "bias": "a selection bias moved by the sign rule (overloaded down, underloaded up)",
        "loss": "a load-balancing loss in each layer",
    }[checkpoint.balance]
    layers = _table("layer", "MaxVio", report.violation_by_layer)
    if report.hash_layers:
        numbers = ", ".join(map(str, report.hash_layers))
        layers += f"\n\nLayers routed by token id, where the load follows from the text: {numbers}."
    if report.bias_range_by_layer:
        layers += "\n\n" + _table("layer", "selection bias, range", report.bias_range_by_layer)
    return f"""---
license: apache-2.0
library_name: transformers
---

# {checkpoint.name}, tiny

A small trained {architecture} for demonstrations and tests of moeprobe. It is no use
as a language model.

- Architecture: {checkpoint.features}; {report.parameters:,} parameters; {VOCABULARY:,} tokens, byte-level BPE
- Training: {training.steps:,} steps, {training.tokens:,} tokens, seed {training.seed}
- Balance: {balanced_by}
- License: Apache-2.0; the weights were trained by the authors of moeprobe
- Software: torch {version("torch")}, transformers {version("transformers")}
- Date: {datetime.datetime.now(datetime.UTC).date()}

Made by `python scripts/training/train_checkpoints.py --only {checkpoint.name}`, which also wrote this card.

## Text

Eight kinds of text, equally sampled; {HELD_OUT_PERCENT} % of the documents were held out
before training. None of the text is part of this folder. The packages, by archive:

{sources}

## Measured

On the held-out text, after rounding the weights to bfloat16 and loading them back; the
arithmetic was float32. Losses are in nats per token.

Loss {report.loss:.3f}; a unigram model has {report.unigram_loss:.3f}.

{_table("kind", "loss", report.loss_by_kind)}

Load of the busiest expert above the mean, as a share of the mean (MaxVio):

{layers}

Loss with the output of the routed experts multiplied, in every layer, on a third of the text:

{_table("multiplier", "loss", report.loss_by_multiplier)}
"""
