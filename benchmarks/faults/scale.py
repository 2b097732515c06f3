"""Faults that scale-mismatch is to find: the routed branch has the wrong size."""

from benchmarks.fault import Fault, any_site, learned
from benchmarks.patient import Site, Wound

FACTORS = (1 / 2, 2, 1 / 3, 3, 1 / 5, 5, 1 / 20, 20)
"""In order of how far they are from 1."""


def _far(factor: float, least: float) -> bool:
    return max(factor, 1 / factor) >= least * 0.999


def _has_factor(site: Site) -> bool:
    return hasattr(site.router, "routed_scaling_factor")


def _has_norm(site: Site) -> bool:
    return hasattr(site.router, "norm_topk_prob")


def _factor(wound: Wound) -> bool:
    for site in wound.patient.sites:
        site.router.routed_scaling_factor *= wound.strength
    return True


def _factor_and_config(wound: Wound) -> bool:
    _factor(wound)
    wound.patient.model.config.routed_scaling_factor *= wound.strength
    return _far(wound.strength, 2)


def _experts(wound: Wound) -> bool:
    for site in wound.patient.sites:
        site.experts.down_proj.mul_(wound.strength)
    return _far(wound.strength, 2)


def _one_layer(wound: Wound) -> bool:
    wound.site.experts.down_proj.mul_(wound.strength)
    return wound.strength >= 4.99


def _norm(wound: Wound) -> bool:
    for site in wound.patient.sites:
        site.router.norm_topk_prob = not site.router.norm_topk_prob
    if wound.strength == 2:
        config = wound.patient.model.config
        config.norm_topk_prob = not config.norm_topk_prob
    return wound.strength == 1


FAULTS = (
    Fault(
        "factor-in-code",
        "scale-mismatch",
        r"factor|too (large|small)",
        "routed_scaling_factor multiplied behind the config's back by",
        FACTORS,
        _factor,
        _has_factor,
        scope="model",
    ),
    Fault(
        "factor-in-config",
        "scale-mismatch",
        r"too (large|small)",
        "routed_scaling_factor of the config multiplied by",
        FACTORS,
        _factor_and_config,
        _has_factor,
        scope="model",
        loss=True,
    ),
    Fault(
        "all-experts",
        "scale-mismatch",
        r"too (large|small)",
        "the down projections of all routed experts multiplied by",
        FACTORS,
        _experts,
        any_site,
        scope="model",
        loss=True,
    ),
    Fault(
        "one-layer",
        "scale-mismatch",
        r"too (large|small)|another size",
        "the down projections of one layer's routed experts multiplied by",
        FACTORS,
        _one_layer,
        any_site,
        loss=True,
    ),
    Fault(
        "norm-flipped",
        "scale-mismatch",
        r"normalised|too (large|small)",
        "norm_topk_prob flipped (1: in the code, 2: in the config as well)",
        (1, 2),
        _norm,
        lambda site: learned(site) and _has_norm(site),
        scope="model",
        loss=True,
    ),
)
