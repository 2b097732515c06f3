"""Choice: the loss with the learned choice of one layer replaced by random experts.

If the rows of a gate no longer stand in the order of its experts, its choice is worth no more than any other, and
no load or logit shows it; the loss does (docs/science.md, D9). The weights stay in their slots, in order: what changes
is who is chosen, never how much. (Weights recomputed from the random experts' own scores would shrink where they
are not normalised, and the loss would rise for that reason alone.)
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moeprobe.experiments.loss import DocumentLosses, TokenLosses, token_losses
from moeprobe.experiments.paired import interval, paired, share
from moeprobe.experiments.scale import multiplied
from moeprobe.findings.evidence import ChoiceTest
from moeprobe.findings.numbers import Interval
from moeprobe.findings.router import Router
from moeprobe.probes.batches import Batch
from moeprobe.routers.find import Site
from moeprobe.routers.routing import read_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choice_test(
    model: "PreTrainedModel",
    site: Site,
    router: Router,
    batches: Sequence[Batch],
    sources: list[str],
    baseline: TokenLosses,
    repetitions: int,
    tick: Callable[[], None] = lambda: None,
) -> ChoiceTest | None:
    """The rise of the loss when ``site`` is sent to random experts, and when its routed branch is removed.

    Costs one forward pass per repetition and one more.

    Args:
        model: a causal language model in eval mode; it is left as it was, bit for bit.
        site: the site whose choice is replaced.
        router: its facts.
        batches: the tokens to judge by.
        sources: label of each document.
        baseline: the losses with the learned choice.
        repetitions: random choices to average over, seeds 0, 1, ...
        tick: called after every batch.

    Returns:
        None where the experts module of this family takes no choice that could be replaced.

    """
    if site.experts is None:
        return None
    mean, square = torch.zeros_like(baseline.nats), 0.0
    for seed in range(repetitions):
        with RandomChoice(model, site.experts, router.experts, seed) as hooked:
            random = token_losses(model, batches, tick)
        if not hooked.replaced:
            return None
        mean += random.nats / repetitions
        square += float((random.nats - baseline.nats).square().mean()) / repetitions
    with multiplied([site], 0.0):
        removed = token_losses(model, batches, tick)

    def over_documents(nats: Tensor) -> DocumentLosses:
        return TokenLosses(nats, baseline.document).by_document(len(sources))

    learned, by_chance, without = (over_documents(nats) for nats in (baseline.nats, mean, removed.nats))
    read = [source for source, tokens in zip(sources, learned.tokens.tolist(), strict=True) if tokens]
    value, error = paired(by_chance, learned)
    low, high = interval(value, error, len(read))
    part = share(by_chance, without, learned)
    return ChoiceTest(
        router=router.path,
        rise=Interval(value=value, low=low, high=high),
        stir=square**0.5,
        removed=paired(without, learned)[0],
        share=None if part is None else Interval(value=part[0], low=part[1], high=part[2]),
        repetitions=repetitions,
        documents=len(read),
        sources=len(set(read)),
        tokens=int(learned.tokens.sum()),
    )


class RandomChoice(AbstractContextManager["RandomChoice"]):
    """While it is entered, ``experts`` runs distinct random experts for every real token.

    Padding keeps its choice, and so do slots that name no routed expert (dropped, zero and skip experts).
    ``replaced`` counts the forward passes that were changed.
    """

    def __init__(self, model: nn.Module, experts: nn.Module, count: int, seed: int) -> None:
        self.replaced = 0
        self._model, self._experts, self._count = model, experts, count
        self._generator = torch.Generator().manual_seed(seed)
        self._mask: Tensor | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [
            self._model.register_forward_pre_hook(self._begins, with_kwargs=True),
            self._experts.register_forward_pre_hook(self._replace, with_kwargs=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begins(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")

    def _replace(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = read_arguments(args, kwargs, None)
        chosen, weights = given.experts, given.weights
        if chosen is None or weights is None or not 0 < chosen.shape[1] < self._count:
            return None
        made = self._random(chosen)
        # The first integer matrix is what ``read_arguments`` reads as the choice.
        values: dict[int | str, Any] = dict([*enumerate(args), *kwargs.items()])
        place = next(place for place, value in values.items() if _is_choice(value))
        values[place] = made.reshape(values[place].shape)
        self.replaced += 1
        return tuple(values[i] for i in range(len(args))), {name: values[name] for name in kwargs}

    def _random(self, chosen: Tensor) -> Tensor:
        """Like ``chosen`` [rows, k], with random distinct experts in the rows of real tokens."""
        draw = torch.rand(chosen.shape[0], self._count, generator=self._generator)
        made = draw.topk(chosen.shape[1], dim=-1).indices.to(chosen)
        keep = (chosen < 0) | (chosen >= self._count)
        if self._mask is not None and self._mask.numel() == chosen.shape[0]:
            keep = keep | (self._mask.reshape(-1, 1) == 0).to(keep.device)
        return torch.where(keep, chosen, made)


def _is_choice(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and not value.is_floating_point() and value.dtype != torch.bool
