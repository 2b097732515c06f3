"""Run every experiment that the recipe asks for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from moeprobe.experiments.choice import choice_test
from moeprobe.experiments.loss import document_losses, no_loss, no_optimum, token_losses
from moeprobe.experiments.scale import farthest, scale_curve
from moeprobe.experiments.work import Work, one_by_one
from moeprobe.findings.evidence import Activations, ChoiceTest, Experiments, ScaleCurve
from moeprobe.findings.router import Router
from moeprobe.probes.batches import Batches
from moeprobe.recipe import ChoiceRecipe, Recipe, ScaleRecipe
from moeprobe.routers.find import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WHOLE = "the whole model"


def run_experiments(
    model: "PreTrainedModel",
    sites: Sequence[Site],
    routers: Sequence[Router],
    batches: Batches,
    seen: dict[str, Activations | None],
    recipe: Recipe,
    tick: Callable[[], None] = lambda: None,
    work: Work = one_by_one,
) -> Experiments:
    """The loss tests, as far as the model has a loss: the size of the routed branch, the worth of every layer's choice.

    Args:
        model: a model in eval mode; it is left as it was, bit for bit.
        sites: its routed sites.
        routers: the facts of those that fired.
        batches: the probe; a balanced part of it is read.
        seen: what the probe showed, by router path; it tells which layers stand out by their size.
        recipe: what to run, with which budgets.
        tick: called after every batch.
        work: does the tests, in whatever order and process.

    """
    size = worth = Experiments()
    if recipe.scale.max_tokens and no_optimum(model) is None:
        size = _scale(model, sites, batches, seen, recipe.scale, tick, work)
    if recipe.choice.max_tokens and routers and no_loss(model) is None:
        worth = _choice(model, sites, routers, batches, recipe.choice, tick, work)
    first = size if size.loss is not None else worth
    return first.model_copy(update={"scale": size.scale, "choice": worth.choice})


def _scale(
    model: "PreTrainedModel",
    sites: Sequence[Site],
    batches: Batches,
    seen: dict[str, Activations | None],
    recipe: ScaleRecipe,
    tick: Callable[[], None],
    work: Work,
) -> Experiments:
    """Loss in a multiplier on the routed branch: of the whole model, and of the layers of the oddest sizes."""
    sites = [site for site in sites if site.branch]
    if not sites:
        return Experiments()
    subset = batches.take(recipe.max_tokens, recipe.max_length)
    sources = [document.source for document in subset.documents]
    baseline = document_losses(model, subset.batches, len(sources), tick)
    found = Experiments(loss=baseline.mean, loss_tokens=int(baseline.tokens.sum()))
    if not torch.isfinite(baseline.nats).all():
        return found

    def curve(place: str) -> ScaleCurve:
        chosen = sites if place == _WHOLE else [site for site in sites if site.path == place]
        path = None if place == _WHOLE else place
        return scale_curve(model, chosen, subset.batches, sources, path, baseline, tick)

    # A site without a branch of its own (a list that is never called) cannot be scaled alone.
    paths = {site.path for site in sites}
    single = [path for path in farthest(_sizes(seen), recipe.single_layers) if path in paths]
    curves = work(ScaleCurve, [_WHOLE, *single], curve)
    return found.model_copy(update={"scale": curves})


def _choice(
    model: "PreTrainedModel",
    sites: Sequence[Site],
    routers: Sequence[Router],
    batches: Batches,
    recipe: ChoiceRecipe,
    tick: Callable[[], None],
    work: Work,
) -> Experiments:
    """Loss with random experts in one layer, of every layer."""
    passes = len(routers) * (recipe.repetitions + 1)
    subset = batches.take(min(recipe.max_tokens, max(recipe.total_tokens // passes, 1)), recipe.max_length)
    sources = [document.source for document in subset.documents]
    baseline = token_losses(model, subset.batches, tick)
    mean = baseline.by_document(len(sources)).mean
    found = Experiments(loss=mean, loss_tokens=baseline.nats.numel())
    if not torch.isfinite(baseline.nats).all():
        return found
    by_path = {router.path: router for router in routers}
    standing = {site.path: site for site in sites if site.path in by_path}

    def test(path: str) -> ChoiceTest | None:
        return choice_test(
            model, standing[path], by_path[path], subset.batches, sources, baseline, recipe.repetitions, tick
        )

    tests = work(ChoiceTest, list(standing), test)
    return found.model_copy(update={"choice": [one for one in tests if one is not None]})


def _sizes(seen: dict[str, Activations | None]) -> dict[str, float]:
    """Median size of the routed branch by router: beside the shared expert, else beside the residual stream."""
    sizes = {}
    for path, activations in seen.items():
        magnitudes = activations.magnitudes if activations else None
        ratio = magnitudes and (magnitudes.routed_to_shared or magnitudes.routed_to_residual)
        if ratio and ratio.p50 is not None:
            sizes[path] = ratio.p50
    return sizes
