"""Run every experiment that the recipe asks for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from moeprobe.experiments.loss import document_losses
from moeprobe.experiments.scale import scale_curve, standing_out
from moeprobe.findings.evidence import Activations, Experiments
from moeprobe.probes.batches import Batches
from moeprobe.recipe import ScaleRecipe
from moeprobe.routers.find import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run_experiments(
    model: "PreTrainedModel",
    sites: list[Site],
    batches: Batches,
    seen: dict[str, Activations | None],
    recipe: ScaleRecipe,
    tick: Callable[[], None] = lambda: None,
) -> Experiments:
    """The loss test of the routed branch's size, for the whole model and for the layers that stand out.

    Args:
        model: a causal language model in eval mode; it is left as it was, bit for bit.
        sites: its routed sites.
        batches: the probe; a balanced part of it is read.
        seen: what the probe showed, by router path; it tells which layers stand out.
        recipe: token budget and number of single layers.
        tick: called after every batch.
    """
    if not recipe.max_tokens:
        return Experiments()
    subset = batches.take(recipe.max_tokens, recipe.max_length)
    sources = [document.source for document in subset.documents]
    baseline = document_losses(model, subset.batches, len(sources), tick)
    if not torch.isfinite(baseline.nats).all():
        return Experiments()
    curves = [scale_curve(model, sites, subset.batches, sources, None, baseline, tick)]
    for path in standing_out(_sizes(seen), recipe.flagged_layers):
        single = [site for site in sites if site.path == path]
        curves.append(scale_curve(model, single, subset.batches, sources, path, baseline, tick))
    return Experiments(loss=baseline.mean, loss_tokens=int(baseline.tokens.sum()), scale=curves)


def _sizes(seen: dict[str, Activations | None]) -> dict[str, float]:
    """Median size of the routed branch by router: beside the shared expert, else beside the residual stream."""
    sizes = {}
    for path, activations in seen.items():
        magnitudes = activations.magnitudes if activations else None
        ratio = magnitudes and (magnitudes.routed_to_shared or magnitudes.routed_to_residual)
        if ratio and ratio.p50 is not None:
            sizes[path] = ratio.p50
    return sizes
