"""Scale: the loss with the routed branch multiplied by m.

A trained model is near a stationary point of its own loss in m, so the best m of a healthy checkpoint is near 1
and needs no reference (docs/science.md B4). The multiplier acts on the output of the experts module through a hook:
no weight is touched.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moeprobe.experiments.loss import DocumentLosses, document_losses
from moeprobe.experiments.paired import paired
from moeprobe.findings.evidence import ScaleCurve, ScalePoint
from moeprobe.probes.batches import Batch
from moeprobe.routers.find import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GRID = tuple(round(10 ** (i / 10), 3) for i in range(-4, 5))
"""0.4 to 2.5 in steps of a tenth of a decade."""
SCREEN = (GRID[1], GRID[-2])
"""A single layer whose loss rises to both of these, half and twice its size, is right and not looked at further."""
EXTENSIONS = 2
_EXTENSION = tuple(10 ** (i / 5) for i in range(1, 6))
"""One more decade in steps of a fifth, where the best is at the edge."""


def scale_curve(
    model: "PreTrainedModel",
    sites: Sequence[Site],
    batches: Sequence[Batch],
    sources: list[str],
    router: str | None,
    baseline: DocumentLosses,
    tick: Callable[[], None] = lambda: None,
) -> ScaleCurve:
    """Loss in a multiplier on the routed output of ``sites``.

    Args:
        model: a causal language model in eval mode.
        sites: the sites whose experts are scaled together.
        batches: the tokens to judge by.
        sources: label of each document.
        router: path of the router for a single site, None for the whole model.
        baseline: losses at multiplier 1.
        tick: called after every batch.

    """

    def evaluate(multiplier: float) -> DocumentLosses:
        with multiplied(sites, multiplier):
            return document_losses(model, batches, len(sources), tick)

    losses = {1.0: baseline}
    if router is not None:
        for m in SCREEN:
            losses[m] = evaluate(m)
        if _argmin(losses) == 1:
            return _curve(losses, baseline, sources, router)
    for m in GRID:
        if m not in losses:
            losses[m] = evaluate(m)
    for _ in range(EXTENSIONS):
        best = _argmin(losses)
        edge = min(losses) if best == min(losses) else max(losses) if best == max(losses) else None
        if edge is None:
            break
        for step in _EXTENSION:
            m = float(f"{edge * step if edge > 1 else edge / step:.3g}")
            losses[m] = evaluate(m)
    for m in _midpoints(sorted(losses), _argmin(losses)):
        losses[m] = evaluate(m)
    return _curve(losses, baseline, sources, router)


def _midpoints(grid: list[float], best: float) -> list[float]:
    """Halfway (in log m) from the best point to its neighbours; none for a model whose size is right."""
    place = grid.index(best)
    if best == 1 or place in (0, len(grid) - 1):
        return []
    return [float(f"{math.sqrt(best * grid[near]):.3g}") for near in (place - 1, place + 1)]


def farthest(ratios: dict[str, float], at_most: int) -> list[str]:
    """The routers whose ratios are farthest off the median of the others, farthest first."""
    distance = {}
    for path, ratio in ratios.items():
        middle = median([r for other, r in ratios.items() if other != path] or [ratio])
        distance[path] = abs(math.log(ratio / middle)) if ratio > 0 and middle > 0 else math.inf
    return sorted(distance, key=lambda path: -distance[path])[:at_most]


@contextmanager
def multiplied(sites: Sequence[Site], multiplier: float) -> Iterator[None]:
    """While the block runs, the experts of ``sites`` give ``multiplier`` times their output."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * multiplier, *output[1:])
        return output * multiplier

    with ExitStack() as stack:
        for site in sites:
            for module in site.branch:
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _argmin(losses: dict[float, DocumentLosses]) -> float:
    finite = {m: loss.mean for m, loss in losses.items() if math.isfinite(loss.mean)}
    return min(finite, key=lambda m: finite[m]) if finite else 1.0


def _curve(
    losses: dict[float, DocumentLosses], baseline: DocumentLosses, sources: list[str], router: str | None
) -> ScaleCurve:
    grid = sorted(losses)
    best = _argmin(losses)
    gain, error = paired(baseline, losses[best])
    by_source = {}
    for source in sorted(set(sources)):
        inside = torch.tensor([s == source for s in sources]) & (baseline.tokens > 0)
        if bool(inside.any()):
            by_source[source] = float((baseline.nats - losses[best].nats)[inside].sum())
    return ScaleCurve(
        router=router,
        points=[ScalePoint(multiplier=m, loss=losses[m].mean) for m in grid],
        best=_vertex(grid, [losses[m].mean for m in grid], grid.index(best)),
        interior=best not in (grid[0], grid[-1]),
        gain=gain,
        standard_error=error,
        sources_gaining=sum(g > 0 for g in by_source.values()),
        sources=len(by_source),
        documents=int((baseline.tokens > 0).sum()),
        tokens=int(baseline.tokens.sum()),
    )


def _vertex(grid: list[float], losses: list[float], index: int) -> float:
    """Vertex of the parabola through the best point and its neighbours, in log m; the point at an edge."""
    if index in (0, len(grid) - 1):
        return grid[index]
    x = [math.log(m) for m in grid[index - 1 : index + 2]]
    y = losses[index - 1 : index + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curvature = (right - left) / (x[2] - x[0])
    if not math.isfinite(curvature) or curvature <= 0:
        return grid[index]
    middle = (x[0] + x[1]) / 2 - left / (2 * curvature)
    return math.exp(min(max(middle, x[0]), x[2]))
