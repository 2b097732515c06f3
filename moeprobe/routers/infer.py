"""Infer the rule of one router from one of its calls: how weights and choice follow from the logits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moeprobe.findings.router import Arithmetic, Declared, ScoreFunction
from moeprobe.routers.find import Site, expert_count
from moeprobe.routers.fit import SelectionFit, WeightFit, fit_selection, fit_weights
from moeprobe.routers.gate import Gate
from moeprobe.routers.rule import SCORE_FUNCTIONS, scores
from moeprobe.routers.tensors import Named, bias_candidates, expert_scales, named
from moeprobe.routers.wrapped import inner

_EXPLAINED = 0.99
"""Share of tokens whose choice a selection rule reproduces; rounding of 16-bit scores costs less than this leaves."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What a call shows: logits [rows, columns] or None, experts and weights [rows, k].

    ``score_dtype`` is the dtype of the score function; ``hashed`` says that a table chooses, not the scores.
    """

    logits: Tensor | None
    experts: Tensor
    weights: Tensor
    score_dtype: torch.dtype
    hashed: bool


@dataclass(frozen=True, eq=False)
class Rule:
    """What was inferred; None for each part that nothing explains or that there is none of.

    ``choosing``: where the scores of the weights do not explain the choice, the score functions that do.
    """

    fit: WeightFit | None = None
    selection: SelectionFit | None = None
    bias: Named | None = None
    scale: Named | None = None
    choosing: tuple[ScoreFunction, ...] = ()

    def after(self, relative: Gate, site: Site) -> "Rule":
        """The rule of a router of the same class, where this one's own numbers show none (all NaN, all equal)."""
        kin = relative.router
        assert kin.score_function is not None
        fit = WeightFit(kin.score_function, kin.renormalised, kin.scaling_factor, float("inf"))
        selection = SelectionFit(kin.selection_bias is not None, kin.groups, 0.0, kin.bias_on == "logits")
        name = kin.selection_bias.name if kin.selection_bias else ""
        return replace(self, fit=fit, selection=selection, bias=self.bias or named(site, name))


def score_dtype(arithmetic: Arithmetic | None) -> torch.dtype:
    """Dtype of the score function, float32 where it was not observed."""
    found: torch.dtype = getattr(torch, arithmetic.score if arithmetic and arithmetic.score else "float32")
    return found


def infer(site: Site, shown: Shown, declared: Declared, config: Any, logit_bias: Named | None) -> Rule:
    """The simplest rule that explains what is shown.

    Args:
        site: where the router stands; its tensors are the candidates for biases and factors.
        shown: what one call shows.
        declared: the config's promise, which breaks ties.
        config: names the group sizes.
        logit_bias: a bias that is known to be part of the logits.

    """
    candidates = [] if shown.hashed else list(bias_candidates(site, shown.logits, logit_bias))
    bias = candidates[0] if candidates else None
    if shown.logits is None:
        return Rule(bias=bias)
    fit, scale = _weights(site, shown, declared, bias)
    if fit is None or shown.hashed:
        return Rule(fit, None, bias, scale)
    score = scores(shown.logits.to(shown.score_dtype), fit.function)
    usable = torch.isfinite(score).all(dim=-1) & (shown.experts >= 0).all(dim=-1)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    groups = [group_sizes(inner(site.router), text)]
    values = None if bias is None else bias[1]
    selection = fit_selection(score[usable], shown.experts[usable], values, groups, shown.logits[usable])
    explained = selection.agreement >= _EXPLAINED
    others = () if explained else tuple(_choosing(shown, fit.function, values, groups))
    return Rule(fit, selection, bias, scale, others)


def _choosing(
    shown: Shown, weighing: ScoreFunction, bias: Tensor | None, groups: list[tuple[int, int]]
) -> Iterator[ScoreFunction]:
    """The score functions other than that of the weights whose scores reproduce the choice."""
    assert shown.logits is not None
    for function in SCORE_FUNCTIONS:
        if function == weighing:
            continue
        score = scores(shown.logits.to(shown.score_dtype), function)
        usable = torch.isfinite(score).all(dim=-1) & (shown.experts >= 0).all(dim=-1)
        if fit_selection(score[usable], shown.experts[usable], bias, groups).agreement >= _EXPLAINED:
            yield function


def _weights(site: Site, shown: Shown, declared: Declared, bias: Named | None) -> tuple[WeightFit | None, Named | None]:
    """The rule of the weights: plain, made of biased scores, or with a factor for each expert (Gemma 4)."""
    assert shown.logits is not None
    arguments = (shown.logits, shown.experts, shown.weights, shown.score_dtype, declared)
    fit = fit_weights(*arguments)
    if fit is None and bias is not None:
        fit = fit_weights(*arguments, bias[1])
    if fit is not None:
        return fit, None
    for name, scale in expert_scales(site, expert_count(site, shown.logits.shape[-1])):
        fit = fit_weights(*arguments, scale=scale.to(shown.logits.device))
        if fit is not None:
            return fit, (name, scale)
    return None, None


def group_sizes(*holders: Any) -> tuple[int, int]:
    """(groups, kept groups) by their usual names on a router or in a config; (1, 1) where there are none."""
    for holder in holders:
        names = ("num_group", "n_group", "n_groups", "num_expert_group")
        count = next((c for n in names if isinstance(c := getattr(holder, n, None), int)), 0)
        kept = getattr(holder, "topk_group", None)
        if count and isinstance(kept, int):
            return count, kept
    return 1, 1
