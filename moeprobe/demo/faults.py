"""Plant one fault in a copy of a checkpoint, in a known layer."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import moeprobe
from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.errors import OptionError
from moeprobe.probes.texts import load_documents
from moeprobe.routers.gate import Gate

Plant = Callable[[torch.nn.Module, Gate, Tensor], str]
"""Damage one router's site; gets the model, the gate, and its inputs [tokens, hidden]; says what was done."""


def plant(fault: str, source: Path, target: Path, layer: int | None = None) -> str:
    """Copy the checkpoint ``source`` to ``target`` with one fault in it; says what was done and where.

    Args:
        fault: name of a fault in ``catalogue.FAULTS``.
        source: folder of a healthy checkpoint.
        target: folder to write.
        layer: decoder layer to damage; by default the middle one that the fault fits.

    Raises:
        OptionError: the checkpoint has no layer that the fault fits.

    """
    checkpoint = open_checkpoint(source)
    model = load_model(checkpoint).model
    tokenizer = load_tokenizer(checkpoint)
    text = next(d.text for d in load_documents("builtin"))
    with moeprobe.record(model, keep_inputs=True) as recording, torch.no_grad():
        model(input_ids=torch.tensor([tokenizer(text, truncation=True, max_length=512)["input_ids"]]), use_cache=False)
    fits = [r for r in recording.records if _fits(fault, r.gate) and layer in (None, r.router.layer)]
    if not fits:
        raise OptionError(f"No router of {source} that the fault {fault} fits.")
    record = fits[len(fits) // 2]
    assert record.inputs is not None
    done = _PLANTS[fault](model, record.gate, record.inputs)
    with quiet_transformers():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return f"layer {record.router.layer} ({record.router.path}): {done}"


def _fits(fault: str, gate: Gate) -> bool:
    if fault == "hash-boundary":
        return gate.table is not None
    if gate.table is not None or gate.weight is None:
        return False
    return fault != "bias-runaway" or gate.selection_bias is not None


def _flat(_model: torch.nn.Module, gate: Gate, _inputs: Tensor) -> str:
    assert gate.weight is not None
    gate.weight.mul_(1e-4)
    return "gate matrix multiplied by 1e-4"


def _runaway(_model: torch.nn.Module, gate: Gate, _inputs: Tensor) -> str:
    assert gate.selection_bias is not None
    expert = gate.router.experts // 2
    gate.selection_bias[expert] += 10
    return f"selection bias of expert {expert} raised by 10"


def _underflow(_model: torch.nn.Module, gate: Gate, inputs: Tensor) -> str:
    """Move one row against the mean input until its logits fall below -110 on average (the edge is -102.9)."""
    assert gate.weight is not None
    expert = gate.router.experts // 2
    mean = inputs.float().mean(dim=0)
    gate.weight[expert] -= (160 * mean / mean.square().sum()).to(gate.weight.dtype)
    return f"gate row of expert {expert} turned against its input, logits near -160"


def _scale(model: torch.nn.Module, gate: Gate, _inputs: Tensor) -> str:
    experts = model.get_submodule(gate.router.path.rpartition(".")[0] + ".experts")
    for name, parameter in experts.named_parameters():
        if "down_proj" in name:
            parameter.mul_(20)
    return "routed experts' down projections multiplied by 20"


def _hash(_model: torch.nn.Module, gate: Gate, _inputs: Tensor) -> str:
    assert gate.table is not None
    gate.table.zero_()
    return "tid2eid set to zero"


_PLANTS: dict[str, Plant] = {
    "flat-scores": _flat,
    "bias-runaway": _runaway,
    "sqrt-nan": _underflow,
    "scale-mismatch": _scale,
    "hash-boundary": _hash,
}
