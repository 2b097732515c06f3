"""Faults that flat-scores is to find: a router that does not prefer anybody."""

import torch

from benchmarks.fault import Fault
from benchmarks.patient import Wound


def _scaled(wound: Wound) -> bool:
    spread = float(wound.site.logits().std(dim=-1, correction=0).median())
    wound.site.weight.mul_(wound.strength)
    return spread * wound.strength < 0.05


def _equal_rows(wound: Wound) -> bool:
    count = wound.site.count if wound.strength > 2 else 2
    first, *others = wound.pick(count)
    wound.site.weight[others] = wound.site.weight[first].clone()
    return True


def _zero_rows(wound: Wound) -> bool:
    wound.site.weight[wound.pick(int(wound.strength))] = 0
    return True


def _offset(wound: Wound) -> bool:
    """Signal to rounding is computed here from the definition, in the dtype that the router runs in."""
    site = wound.site
    if site.gate.router.arithmetic is None or site.gate.router.arithmetic.product != "bfloat16":
        return False
    site.weight.add_((wound.strength * site.one).to(site.weight.dtype))
    exact = site.logits()
    native = torch.nn.functional.linear(site.inputs.to(torch.bfloat16), site.weight).float()
    rounding = native - exact
    rounding = rounding - rounding.mean(dim=-1, keepdim=True)
    signal = exact.std(dim=-1, correction=0).median() / rounding.square().mean().sqrt()
    return float(signal) < 28


def _collapsed(wound: Wound) -> bool:
    """The router's input loses what tells tokens apart: mean + strength * (input - mean)."""
    mean, keep = wound.site.inputs.mean(dim=0), wound.strength

    def blend(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        centre = mean.to(args[0].dtype)
        return (centre + keep * (args[0] - centre), *args[1:])

    wound.stack.callback(wound.site.router.register_forward_pre_hook(blend).remove)
    return wound.site.modal_share(mean + keep * (wound.site.inputs - mean)) > 0.92


def _zero_input(wound: Wound) -> bool:
    """The norm before the block loses its weight: router and experts see next to nothing."""
    spread = float(wound.site.logits().std(dim=-1, correction=0).median())
    holder = wound.patient.model.get_submodule(wound.site.gate.router.path.rpartition(".")[0].rpartition(".")[0])
    holder.post_attention_layernorm.weight.mul_(wound.strength)
    return spread * wound.strength < 0.05


FAULTS = (
    Fault(
        "gate-scaled",
        "flat-scores",
        r"zero",
        "the gate matrix multiplied by",
        (0.3, 0.1, 0.03, 0.01, 1e-3, 0.0),
        _scaled,
    ),
    Fault("equal-rows", "flat-scores", r"equal", "gate rows made equal (99: all)", (2, 99), _equal_rows, tokens=0),
    Fault("zero-rows", "flat-scores", r"zero", "gate rows set to zero", (1, 2, 4), _zero_rows, tokens=0),
    Fault(
        "common-offset",
        "flat-scores",
        r"rounding",
        "a common offset added to all logits of a bfloat16 router",
        (6, 20, 60, 200),
        _offset,
        also=("sqrt-nan",),
        dtypes=("bfloat16",),
    ),
    Fault(
        "input-collapsed",
        "flat-scores",
        r"collapsed|does not depend on the token",
        "the router's input blended with its mean, this share kept",
        (0.3, 0.1, 0.03, 0.01, 0.0),
        _collapsed,
    ),
    Fault(
        "norm-lost",
        "flat-scores",
        r"collapsed",
        "the weight of the norm before the router multiplied by",
        (0.1, 0.01, 1e-4, 0.0),
        _zero_input,
        also=("scale-mismatch",),
    ),
)
