"""Records of made-up routers, for what is measured of their experts."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moeprobe.findings.router import Router
from moeprobe.probes.texts import Document
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate
from moeprobe.statistics.observation import Observation
from tests.statistics.test_merge import gate as any_gate


def router(experts: int, k: int, **facts: object) -> Router:
    sizes = {"experts": experts, "score_columns": experts, "top_k": k, "selection_bias": None}
    return any_gate().router.model_copy(update=sizes | facts)


def record(
    experts: Tensor | Sequence[Sequence[int]],
    documents: Tensor | Sequence[int],
    *,
    columns: int = 16,
    ids: Tensor | None = None,
    weights: Tensor | None = None,
    logits: Tensor | None = None,
    **facts: object,
) -> Record:
    """Tokens in order; without weights the first slot is preferred."""
    chosen = torch.as_tensor(experts)
    named = torch.as_tensor(documents)
    _, run, sizes = torch.unique_consecutive(named, return_inverse=True, return_counts=True)
    weighed = torch.arange(chosen.shape[1], 0, -1).float().expand(chosen.shape) if weights is None else weights
    facts_of = router(columns, chosen.shape[1], **facts)
    return Record(
        router=facts_of,
        logits=logits,
        experts=chosen,
        weights=weighed.masked_fill(chosen < 0, 0.0),
        token_ids=ids,
        positions=torch.arange(len(named)) - (sizes.cumsum(0) - sizes)[run],
        documents=named,
        gate=replace(any_gate().with_router(facts_of), selection_bias=None, weight=None),
    )


def seen(one: Record) -> Observation:
    return Observation(one)


def texts(count: int, sources: int = 4, **labels: Sequence[str | None]) -> list[Document]:
    """Documents in turn from every source."""
    made = []
    for place in range(count):
        more = {name: values[place] for name, values in labels.items()}
        made.append(Document(f"text {place}", f"s{place % sources}", str(place), **more))
    return made


__all__ = ["Gate", "record", "router", "seen", "texts"]
