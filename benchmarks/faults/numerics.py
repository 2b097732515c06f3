"""Faults that sqrt-nan is to find: logits at the edge of the dtype, NaN in weights, scores that fade."""

import math

import torch

from benchmarks.fault import Fault, any_site, sigmoid, square_root
from benchmarks.patient import Wound
from moeprobe.gates.decision import EPSILON
from moeprobe.routers.rule import scores

_EDGE = {"float32": -102.87, "bfloat16": -93.0}


def _score_dtype(wound: Wound) -> str:
    arithmetic = wound.site.gate.router.arithmetic
    return (arithmetic.score if arithmetic else None) or wound.patient.dtype


def _one_expert(wound: Wound) -> bool:
    site = wound.site
    (expert,) = wound.pick()
    site.weight[expert] = (site.one * wound.strength).to(site.weight.dtype)
    smallest = float(site.logits()[:, expert].min())
    return smallest < 0.82 * _EDGE[_score_dtype(wound)]


def _all_experts(wound: Wound) -> bool:
    """Every logit near the strength: the exact weight sum is computed in float64."""
    site = wound.site
    site.weight.add_((site.one * wound.strength).to(site.weight.dtype))
    logits = site.logits().double()
    chosen = (
        scores(logits, "sigmoid" if site.function == "sigmoid" else "sqrtsoftplus")
        .float()
        .double()
        .gather(-1, site.chosen())
        .sum(dim=-1)
    )
    lost = 1 - float((chosen / (chosen + EPSILON)).min())
    return lost > 2e-3 or float(logits.min()) < 0.82 * _EDGE[_score_dtype(wound)]


def _gate(wound: Wound) -> bool:
    (expert,) = wound.pick()
    wound.site.weight[expert, wound.random.randrange(wound.site.weight.shape[1])] = wound.strength
    return True


def _expert_weights(wound: Wound) -> bool:
    """The most used expert, so that the probe meets it."""
    site = wound.site
    used = site.table.flatten() if site.table is not None else site.chosen().flatten()
    expert = int(torch.bincount(used, minlength=site.count).argmax())
    wound.experts = [expert]
    down = site.experts.down_proj[expert]
    if math.isnan(wound.strength):
        down[0, 0] = math.nan
    else:
        down[:] = wound.strength
    return True


FAULTS = (
    Fault(
        "one-expert-low",
        "sqrt-nan",
        r"edge|backward",
        "the logits of one expert near",
        (-60, -80, -95, -110, -160),
        _one_expert,
        square_root,
        also=("scale-mismatch",),
    ),
    Fault(
        "all-low-sigmoid",
        "sqrt-nan",
        r"fade|0/0",
        "all logits of a sigmoid router shifted by",
        (-20, -35, -44, -50, -60, -120),
        _all_experts,
        sigmoid,
        also=("bias-runaway",),
    ),
    Fault(
        "all-low-sqrtsoftplus",
        "sqrt-nan",
        r"fade|0/0|edge|backward",
        "all logits of a sqrt(softplus) router shifted by",
        (-60, -80, -95, -110),
        _all_experts,
        square_root,
        also=("bias-runaway", "flat-scores"),
    ),
    Fault(
        "gate-not-finite",
        "sqrt-nan",
        r"not finite",
        "one entry of a gate row set to",
        (math.nan, math.inf),
        _gate,
        tokens=0,
    ),
    Fault(
        "hash-gate-not-finite",
        "sqrt-nan",
        r"not finite",
        "one entry of a hash gate set to",
        (math.nan,),
        _gate,
        lambda site: site.table is not None,
        tokens=0,
    ),
    Fault(
        "expert-not-finite",
        "sqrt-nan",
        r"output of the experts|expert weights",
        "the most used expert's weights set to (nan: one entry)",
        (math.nan, math.inf),
        _expert_weights,
        any_site,
    ),
)
