"""Fit the routing rule to what was recorded: which score function, which norm, which factor, which selection.

Nothing is recited from a table of families. The weights name the score function (docs/science.md D: it cannot be
inferred from the chosen set, but it can from logits and weights); the chosen experts name bias and groups.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moeprobe.findings.router import Declared, Groups, ScoreFunction
from moeprobe.routers.rule import SCORE_FUNCTIONS, choose, same_set, scores, selection_scores

FACTOR_TOLERANCE = 0.01
"""Relative error up to which a fitted factor counts as the declared one."""
_MOST_ROWS = 100_000
"""Rows of an error's quantile; torch refuses much longer ones."""


@dataclass(frozen=True)
class WeightFit:
    """weights = ``factor`` * score / (sum of chosen scores, if ``renormalised``), to a relative ``error``.

    ``renormalised`` and ``factor`` are None where only the ratios of the weights inside a token are explained.
    ``biased``: only scores with the selection bias in them explain the weights. ``explaining``: all score
    functions that do.
    """

    function: ScoreFunction
    renormalised: bool | None
    factor: float | None
    error: float
    biased: bool = False
    explaining: tuple[ScoreFunction, ...] = ()


@dataclass(frozen=True)
class SelectionFit:
    """The selection rule and the share of tokens whose experts it reproduces.

    ``on_logits``: the bias is added to the logits instead of the scores.
    """

    biased: bool
    groups: Groups | None
    agreement: float
    on_logits: bool = False


def weight_tolerance(dtype: torch.dtype) -> float:
    """Relative error of routing weights that rounding explains: a few units in the last place."""
    return max(16 * torch.finfo(dtype).eps, 2e-5)


def fit_weights(
    logits: Tensor,
    experts: Tensor,
    weights: Tensor,
    score_dtype: torch.dtype,
    declared: Declared,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
) -> WeightFit | None:
    """The simplest rule that explains the weights, None where none does.

    Args:
        logits: [tokens, columns] as the router returned them.
        experts: [tokens, k] int64.
        weights: [tokens, k] as the experts received them.
        score_dtype: dtype in which the router applied its score function.
        declared: the config's promise; it only breaks ties between rules that explain the weights equally.
        bias: [columns] a bias that the scores behind the weights are taken to hold, None for none.
        scale: [experts] a factor for each expert that the weights are taken to hold, None for none.

    """
    usable = torch.isfinite(logits).all(dim=-1) & torch.isfinite(weights).all(dim=-1)
    usable &= (experts >= 0).all(dim=-1) & (experts < logits.shape[-1]).all(dim=-1)
    if not bool(usable.any()):
        return None
    logits, experts, given = logits[usable], experts[usable], weights[usable].double()
    if scale is not None:
        given = given / scale.double()[experts]
    coarsest = max(torch.finfo(weights.dtype).eps, torch.finfo(score_dtype).eps)
    tolerance = max(16 * coarsest, 2e-5)
    fits = []
    for function in SCORE_FUNCTIONS:
        score = scores(logits.to(score_dtype), function).double()
        chosen = (score if bias is None else score + bias.double()).gather(-1, experts)
        for renormalised in (True, False):
            predicted = chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20) if renormalised else chosen
            norm = predicted.square().sum()
            if not bool(norm > 0):
                continue
            factor = float((given * predicted).sum() / norm)
            size = (factor * predicted).abs().amax(dim=-1, keepdim=True).clamp_min(1e-30)
            error = float(((given - factor * predicted).abs() / size)[:_MOST_ROWS].quantile(0.99))
            if error <= tolerance and factor > 0:
                fits.append(WeightFit(function, renormalised, factor, error, biased=bias is not None))
    if not fits and bias is None and given.shape[-1] > 1:
        fits = list(_ratio_fits(logits, experts, given, score_dtype, tolerance))
    if not fits:
        return None
    explaining = tuple(dict.fromkeys(fit.function for fit in fits))
    return replace(min(fits, key=lambda fit: _unlikelihood(fit, declared)), explaining=explaining)


def _ratio_fits(
    logits: Tensor, experts: Tensor, given: Tensor, score_dtype: torch.dtype, tolerance: float
) -> Iterator[WeightFit]:
    """Functions whose scores have the ratios that the weights [tokens, k] have inside each token."""
    for function in SCORE_FUNCTIONS:
        chosen = scores(logits.to(score_dtype), function).double().gather(-1, experts)
        meant, seen = (each / each.sum(dim=-1, keepdim=True) for each in (chosen, given))
        gap = (meant - seen).abs().amax(dim=-1) / meant.amax(dim=-1).clamp_min(1e-30)
        error = float(gap[:_MOST_ROWS].nan_to_num(float("inf")).quantile(0.99))
        if error <= tolerance:
            yield WeightFit(function, None, None, error)


def _unlikelihood(fit: WeightFit, declared: Declared) -> tuple[bool, bool, bool, float]:
    factor = 1.0 if declared.scaling_factor is None else declared.scaling_factor
    near = fit.factor is not None and factor > 0 and abs(math.log(fit.factor / factor)) <= FACTOR_TOLERANCE
    return (
        declared.score_function is not None and fit.function != declared.score_function,
        not near,
        declared.renormalised is not None and fit.renormalised != declared.renormalised,
        fit.error,
    )


def fit_selection(
    score: Tensor,
    experts: Tensor,
    bias: Tensor | None,
    groups: list[tuple[int, int]],
    logits: Tensor | None = None,
) -> SelectionFit:
    """The selection rule that reproduces the chosen experts best; the simplest among equals.

    Args:
        score: [tokens, columns] in the dtype of the router's own scores.
        experts: [tokens, k] int64.
        bias: candidate selection bias [columns].
        groups: candidate (groups, kept groups) from the config.
        logits: [tokens, columns] that the bias may be added to instead of the scores, None to leave that out.

    """
    candidates: list[Groups | None] = [None]
    for count, kept in groups:
        if count > 1 and kept < count and score.shape[-1] % count == 0:
            candidates += [
                Groups(count=count, kept=kept, score=rank, fill=fill)
                for rank in ("top2-sum", "max")
                for fill in ("-inf", "0")
            ]
    best: SelectionFit | None = None
    for grouping in candidates:
        for biased, ranked in _ranked(score, bias, logits):
            selection = selection_scores(ranked, bias if biased else None, grouping)
            agreement = float(same_set(choose(selection, experts.shape[-1]), experts).double().mean())
            if best is None or agreement > best.agreement:
                best = SelectionFit(biased, grouping, agreement, on_logits=ranked is logits)
    assert best is not None
    return best


def _ranked(score: Tensor, bias: Tensor | None, logits: Tensor | None) -> list[tuple[bool, Tensor]]:
    """What may be ranked, and whether with the bias, the simplest first."""
    if bias is None:
        return [(False, score)]
    return [(False, score), (True, score), *([] if logits is None else [(True, logits)])]
