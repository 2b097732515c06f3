"""Faults of the detectors beyond the five: load, precision, the contract, order, copies, untrained gates."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fault import Fault, any_site, biased, learned
from benchmarks.patient import Site, Wound
from moeprobe.gates.decision import combine


def _push(wound: Wound) -> bool:
    """All logits of one expert moved by the strength, in the same way for every token."""
    site = wound.site
    (expert,) = wound.pick()
    site.weight[expert] += (wound.strength * site.one).to(site.weight.dtype)
    share = float((site.chosen() == expert).any(dim=-1).double().mean())
    return share == 0 if wound.strength < 0 else share > 0.93


def _permute(wound: Wound, *, with_bias: bool) -> bool:
    order = wound.random.sample(range(wound.site.count), wound.site.count)
    wound.site.weight.copy_(wound.site.weight[order].clone())
    if with_bias and wound.site.bias is not None:
        wound.site.bias.copy_(wound.site.bias[order].clone())
    return True


def _permute_rows(wound: Wound) -> bool:
    return _permute(wound, with_bias=False)


def _permute_both(wound: Wound) -> bool:
    return _permute(wound, with_bias=True)


def _copies(wound: Wound) -> bool:
    first, second = wound.pick(2)
    for tensor in (wound.site.experts.gate_up_proj, wound.site.experts.down_proj):
        noise = torch.randn(tensor[first].shape, generator=torch.Generator().manual_seed(wound.random.randrange(2**31)))
        spread = tensor[first].float().std()
        tensor[second] = (tensor[first].float() + wound.strength * spread * noise).to(tensor.dtype)
    return wound.strength < 0.03  # the cosine is 1 / sqrt(1 + strength ** 2), the limit 0.999


def _random_gate(wound: Wound) -> bool:
    noise = torch.Generator().manual_seed(wound.random.randrange(2**31))
    weight = wound.site.weight
    deviation = wound.strength or weight.shape[1] ** -0.5
    weight.copy_((deviation * torch.randn(weight.shape, generator=noise)).to(weight.dtype))
    return True


def _after(wound: Wound, change: Any) -> None:
    wound.stack.callback(wound.site.router.register_forward_hook(change).remove)


def _weights_of(site: Site, scores: Tensor, experts: Tensor) -> Tensor:
    router = site.gate.router
    return combine(scores, experts, renormalise=bool(router.renormalised), factor=router.scaling_factor or 1.0)


def _biased_weights(wound: Wound) -> bool:
    site = wound.site

    def change(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, experts = output
        scores = site.gate.scores(logits.float())
        assert scores is not None
        assert site.bias is not None
        return logits, _weights_of(site, scores + site.bias, experts).to(weights.dtype), experts

    _after(wound, change)
    return True


def _coarse_logits(wound: Wound) -> bool:
    """The router's logits keep this many bits of their fraction."""
    site, bits = wound.site, int(wound.strength)

    def rounded(logits: Tensor) -> Tensor:
        fraction, exponent = torch.frexp(logits.float())
        return torch.ldexp((fraction * 2**bits).round() / 2**bits, exponent)

    def change(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits = rounded(output[0])
        scores = site.gate.scores(logits)
        assert scores is not None
        experts = site.gate.choose(site.gate.selection(scores))
        return logits.to(output[0].dtype), _weights_of(site, scores, experts).to(output[1].dtype), experts

    scores = site.gate.scores(rounded(site.logits()))
    assert scores is not None
    again = site.gate.choose(site.gate.selection(scores)).sort(dim=-1).values
    moved = float((again != site.chosen().sort(dim=-1).values).any(dim=-1).double().mean())
    _after(wound, change)
    return moved > 0.18


def _shifted(wound: Wound) -> bool:
    """The experts module runs the expert after the one that the router chose."""
    count = wound.site.count

    def change(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            (a + 1) % count if isinstance(a, Tensor) and not a.is_floating_point() and a.ndim == 2 else a for a in args
        )

    wound.stack.callback(wound.site.experts.register_forward_pre_hook(change).remove)
    return True


def _one_normalised(wound: Wound) -> bool:
    for site in wound.patient.sites:
        site.router.top_k = 1
    wound.patient.model.config.num_experts_per_tok = 1
    return True


FAULTS = (
    Fault(
        "never-chosen",
        "dead-experts",
        r"",
        "all logits of one expert moved by",
        (-1, -3, -10, -20),
        _push,
        tokens=32_768,
    ),
    Fault(
        "always-chosen",
        "overloaded-experts",
        r"",
        "all logits of one expert moved by",
        (1, 3, 10, 20),
        _push,
        tokens=16_384,
    ),
    Fault(
        "coarse-logits",
        "low-precision-routing",
        r"",
        "bits kept of the logits' fraction",
        (7, 5, 4, 3, 2),
        _coarse_logits,
        also=("flat-scores",),
        dtypes=("bfloat16",),
    ),
    Fault("biased-weights", "broken-contract", r"", "weights made of the biased scores", (1,), _biased_weights, biased),
    Fault(
        "shifted-experts",
        "broken-contract",
        r"",
        "the experts that run are those chosen plus 1",
        (1,),
        _shifted,
        any_site,
    ),
    Fault(
        "one-normalised",
        "broken-contract",
        r"",
        "one expert a token, its weight divided by itself",
        (1,),
        _one_normalised,
        lambda site: learned(site) and type(site.router).__name__ == "MixtralTopKRouter",
        scope="model",
    ),
    Fault(
        "rows",
        "permuted-experts",
        r"",
        "the gate rows of one layer permuted",
        (1,),
        _permute_rows,
        tokens=16_384,
        loss=True,
        also=("untrained-gate",),  # small trained gates look random, and no order restores a weak tie
    ),
    Fault(
        "rows-and-bias",
        "permuted-experts",
        r"",
        "gate rows and bias of one layer permuted",
        (1,),
        _permute_both,
        biased,
        tokens=16_384,
        loss=True,
        also=("untrained-gate",),
    ),
    Fault(
        "copies",
        "duplicate-experts",
        r"",
        "an expert copied over another, with relative noise",
        (0.3, 0.03, 0.01, 0),
        _copies,
        any_site,
        tokens=0,
    ),
    Fault(
        "random",
        "untrained-gate",
        r"",
        "the gate redrawn, normal with this deviation (0: 1 / sqrt D)",
        (0.02, 0),
        _random_gate,
        tokens=16_384,
        loss=True,
        also=("permuted-experts",),
    ),
)
