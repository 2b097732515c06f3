"""Faults that bias-runaway is to find: the selection bias decides, is lost, or was rounded."""

import math

import torch

from benchmarks.fault import Fault, biased
from benchmarks.patient import Site, Wound


def _bias(site: Site) -> torch.Tensor:
    assert site.bias is not None
    return site.bias


def _one(wound: Wound) -> bool:
    site = wound.site
    scores = site.scores()
    reach = float(scores.max() - scores.min()) + float(_bias(site).max() - _bias(site).min())
    _bias(site)[wound.pick()] += wound.strength
    return abs(wound.strength) > 1.3 * reach


def _scaled(wound: Wound) -> bool:
    _bias(wound.site).mul_(wound.strength)
    return wound.site.bias_share() > 0.6


def _lost_everywhere(wound: Wound) -> bool:
    for site in wound.patient.sites:
        if site.bias is not None and site.table is None:
            site.bias.fill_(wound.strength * ((site.layer or 0) + 1))
    return True


def _lost_here(wound: Wound) -> bool:
    _bias(wound.site).fill_(wound.strength)
    return True


def _less_even(wound: Wound) -> bool:
    return wound.site.max_vio() > 2 * wound.site.max_vio(biased=False)


def _flipped(wound: Wound) -> bool:
    _bias(wound.site).neg_()
    return _less_even(wound)


def _permuted(wound: Wound) -> bool:
    order = wound.random.sample(range(wound.site.count), wound.site.count)
    _bias(wound.site).copy_(_bias(wound.site)[order].clone())
    return _less_even(wound)


def _coarse(values: torch.Tensor) -> bool:
    low, high = (float(q) for q in torch.quantile(values, torch.tensor([0.25, 0.75])))
    ulp = 2.0 ** (math.frexp(float(values.abs().max()))[1] - 8)
    return ulp > 0.25 * (high - low)


def _held_16bit(wound: Wound) -> bool:
    values = _bias(wound.site) + wound.strength
    for name, buffer in wound.site.router.named_buffers(recurse=False):
        if buffer is wound.site.bias or buffer.data_ptr() == _bias(wound.site).data_ptr():
            wound.site.router._buffers[name] = values.bfloat16()
    return _coarse(values)


def _rounded(wound: Wound) -> bool:
    values = _bias(wound.site) + wound.strength
    _bias(wound.site).copy_(values.bfloat16().float())
    return _coarse(values)


def _nonfinite(wound: Wound) -> bool:
    _bias(wound.site)[wound.pick()] = wound.strength
    return True


FAULTS = (
    Fault("one-up", "bias-runaway", r"outweighs|decides", "one bias raised by", (0.3, 1, 3, 10), _one, biased),
    Fault("one-down", "bias-runaway", r"outweighs|decides", "one bias moved by", (-0.3, -1, -3, -10), _one, biased),
    Fault(
        "scaled", "bias-runaway", r"outweighs|decides", "the bias multiplied by", (2, 5, 10, 30, 100), _scaled, biased
    ),
    Fault(
        "lost-everywhere",
        "bias-runaway",
        r"was lost$",
        "the bias of every layer constant (a multiple of)",
        (0.0, 0.5),
        _lost_everywhere,
        biased,
        scope="model",
        tokens=0,
    ),
    Fault(
        "lost-here",
        "bias-runaway",
        r"lost in this layer",
        "the bias of one layer all",
        (0.0, 1.0),
        _lost_here,
        biased,
        tokens=0,
    ),
    Fault(
        "sign-flipped",
        "bias-runaway",
        r"works against the balance|less even",
        "the sign of the bias flipped",
        (1,),
        _flipped,
        biased,
        tokens=16_384,
    ),
    Fault(
        "permuted",
        "bias-runaway",
        r"less even",
        "the bias permuted over the experts",
        (1,),
        _permuted,
        biased,
        tokens=16_384,
        visible=False,
    ),
    Fault(
        "held-in-16-bits",
        "bias-runaway",
        r"rounded to 16 bits|common offset in 16 bits",
        "the bias held in bfloat16 with a common offset of",
        (1, 5, 8, 34.5),
        _held_16bit,
        biased,
        tokens=0,
    ),
    Fault(
        "rounded-and-upcast",
        "bias-runaway",
        r"rounded",
        "the bias rounded to bfloat16 at a common offset, then held in float32",
        (8, 34.5),
        _rounded,
        biased,
        tokens=0,
        visible=False,
    ),
    Fault(
        "non-finite",
        "bias-runaway",
        r"not finite",
        "one bias set to",
        (math.nan, math.inf, -math.inf),
        _nonfinite,
        biased,
        tokens=0,
    ),
)
