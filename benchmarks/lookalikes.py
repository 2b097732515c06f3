"""Look-alikes: what resembles a fault and is harmless. Nothing may be said about them but infos."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.patient import Patient
from moeprobe.probes.batches import Batch, Batches, make_batches

Disguise = Callable[[Patient, ExitStack], bool]
"""Changes the model or the way it is read; returns whether it fits this model at all."""


@dataclass(frozen=True)
class Lookalike:
    """``source`` is the only kind of text that is read, ``length`` the longest document."""

    name: str
    says: str
    apply: Disguise
    source: str = ""
    length: int = 0


def _nothing(_patient: Patient, _stack: ExitStack) -> bool:
    return True


def _bias(offset: float) -> Disguise:
    def apply(patient: Patient, _stack: ExitStack) -> bool:
        found = [s for s in patient.sites if s.bias is not None and s.table is None]
        for site in found:
            # Groups that are filled with 0 make a negative offset a real fault.
            if offset < 0 and site.gate.router.groups and site.gate.router.groups.fill == "0":
                return False
            assert site.bias is not None
            site.bias.add_(offset)
        return bool(found)

    return apply


def _gates(factor: float) -> Disguise:
    def apply(patient: Patient, _stack: ExitStack) -> bool:
        # Without a norm over the chosen the size of the routed branch follows the gate: then it is no look-alike.
        if not all(site.gate.router.renormalised for site in patient.sites):
            return False
        for site in patient.sites:
            site.weight.mul_(factor)
        return True

    return apply


def _low_hash(patient: Patient, _stack: ExitStack) -> bool:
    found = [s for s in patient.sites if s.table is not None]
    for site in found:
        site.weight.sub_((25 * site.one).to(site.weight.dtype))
    return bool(found)


def _low_logits(patient: Patient, _stack: ExitStack) -> bool:
    """All logits of the learned layers near -25; the bias balances the new scores as it did the old ones.

    Scores of 4e-6 beside the old bias would be a fault: the bias would decide alone. The new one starts at
    -Q_e(1 - k/E), the quantile of each expert's own score, and is moved by the sign rule until the load is even.
    """
    found = [s for s in patient.sites if s.function == "sqrtsoftplus" and s.bias is not None and s.table is None]
    for site in found:
        assert site.bias is not None
        site.weight.sub_((25 * site.one).to(site.weight.dtype))
        quantile = site.scores().double().quantile(1 - site.gate.router.top_k / site.count, dim=0)
        site.bias.copy_(quantile.mean() - quantile)
        spread = float(site.scores().std(dim=-1).median())
        for step in range(300):
            load = torch.bincount(site.chosen().flatten(), minlength=site.count).double()
            rate = 0.1 * 0.98**step * spread
            site.bias.add_(rate * torch.sign(load.mean() - load).to(site.bias.dtype))
    return bool(found)


def _shift(offset: float) -> Disguise:
    """A softmax does not see a common shift, in float32."""

    def apply(patient: Patient, _stack: ExitStack) -> bool:
        found = [s for s in patient.sites if s.function == "softmax"]
        for site in found if patient.dtype == "float32" else []:
            site.weight.add_(offset * site.one)
        return bool(found) and patient.dtype == "float32"

    return apply


def _shared(patient: Patient, _stack: ExitStack) -> bool:
    found = [(n, p) for n, p in patient.model.named_parameters() if "shared_expert" in n and "down_proj" in n]
    for _, parameter in found:
        parameter.mul_(1.3)
    return bool(found)


def _below_rounding(patient: Patient, _stack: ExitStack) -> bool:
    """A float32 checkpoint whose weights lie between the numbers of bfloat16, as loaded in this dtype."""
    noise = torch.Generator().manual_seed(0)
    for parameter in patient.model.parameters():
        if parameter.is_floating_point():
            parameter.copy_(parameter.float() * (1 + 2.0**-9 * torch.randn(parameter.shape, generator=noise)))
    return True


def _flag(patient: Patient, _stack: ExitStack) -> bool:
    """DeepSeek-V4's code always normalises; its config may say otherwise."""
    patient.model.config.norm_topk_prob = False
    return patient.name == "deepseek_v4"


def _experts(name: str) -> Disguise:
    def apply(patient: Patient, _stack: ExitStack) -> bool:
        patient.model.set_experts_implementation(name)
        return True

    return apply


def _left(patient: Patient, stack: ExitStack) -> bool:
    def padded(*args: Any) -> Batches:
        batches = make_batches(*args)
        return replace(batches, batches=[_rolled(batch) for batch in batches.batches])

    stack.enter_context(patch("moeprobe.pipeline.make_batches", padded))
    del patient
    return True


def _rolled(batch: Batch) -> Batch:
    shifts = (batch.attention_mask == 0).sum(dim=1).tolist()

    def roll(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.roll(shift) for row, shift in zip(rows, shifts, strict=True)])

    return Batch(roll(batch.input_ids), roll(batch.attention_mask), roll(batch.counted), batch.documents, batch.sources)


HEALTHY = Lookalike("healthy", "the checkpoint as it is", _nothing)
LOOKALIKES = (
    HEALTHY,
    Lookalike("bias-offset-plus-8", "every selection bias raised by 8, in float32", _bias(8)),
    Lookalike("bias-offset-minus-8", "every selection bias lowered by 8, in float32", _bias(-8)),
    Lookalike("router-at-half", "every gate matrix halved", _gates(0.5)),
    Lookalike("router-doubled", "every gate matrix doubled", _gates(2)),
    Lookalike("peaked-router", "every gate matrix four times as large: peaked, but by the token", _gates(4)),
    Lookalike("low-hash-logits", "the logits of the hash layers lowered by 25", _low_hash),
    Lookalike("low-logits", "logits of sqrt(softplus) lowered by 25, with a bias balanced for them", _low_logits),
    Lookalike("softmax-shift-minus-60", "logits of a float32 softmax lowered by 60", _shift(-60)),
    Lookalike("softmax-shift-plus-60", "logits of a float32 softmax raised by 60", _shift(60)),
    Lookalike("shared-at-1.3", "the shared expert 1.3 times as large", _shared),
    Lookalike("chinese-only", "a probe of Chinese alone", _nothing, source="chinese"),
    Lookalike("python-only", "a probe of Python alone", _nothing, source="python"),
    Lookalike("left-padding", "documents padded on the left", _left),
    Lookalike("below-rounding", "weights that bfloat16 cannot hold exactly", _below_rounding),
    Lookalike("ignored-norm-flag", "norm_topk_prob false where the code always normalises", _flag),
    Lookalike("experts-eager", "the experts run one by one", _experts("eager")),
    Lookalike("experts-batched", "the experts run by batched_mm", _experts("batched_mm")),
    Lookalike("experts-grouped", "the experts run by grouped_mm", _experts("grouped_mm")),
    Lookalike("long-documents", "documents of up to 512 tokens", _nothing, length=512),
    Lookalike("short-documents", "documents of at most 32 tokens", _nothing, length=32),
)
