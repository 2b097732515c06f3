"""The facts of a hash table: what is wrong in the rows that a text can reach, and what only looks wrong beside them."""

from collections.abc import Callable

import torch
from torch import Tensor

from moeprobe.findings.weights import Busiest, HashTable

TokenIds = Callable[[], frozenset[int] | None]
"""Gives the token ids that a text can hold, None where they are not known."""


def table_facts(table: Tensor, experts: int, vocabulary: int | None, ids: TokenIds) -> HashTable:
    """Integrity of a hash table.

    Args:
        table: [rows, k] integers, the experts of each token id.
        experts: how many there are.
        vocabulary: rows of the embedding; None where unknown.
        ids: asked only where something is wrong: to learn the ids takes longer than to look at the table.

    """
    table = table.detach().cpu().long()
    rows = table.shape[0]
    known = rows if vocabulary is None else vocabulary
    everything = torch.ones(min(rows, known), dtype=torch.bool)
    facts = _facts(table, experts, known, everything)
    sound = not (facts.out_of_range or facts.rows_with_repeats or facts.constant or facts.unreachable)
    if sound and rows >= known:
        return facts
    reached = ids()
    if reached is None:
        return facts
    mask = torch.zeros(known, dtype=torch.bool)
    mask[[index for index in reached if 0 <= index < known]] = True
    if not bool(mask[:rows].any()):
        return facts  # a tokenizer of something else
    here = mask[:rows]
    told = _facts(table, experts, known, here)
    spare = table[: len(here)][~here]
    named = _named(spare, experts)
    return told.model_copy(
        update={
            "reached": int(here.sum()),
            "missing": int(mask[rows:].sum()),
            "spare": len(spare),
            "spare_faults": int(_faulty(spare, experts).sum()),
            "unreachable": [expert for expert in told.unreachable if not named[expert]],
            "spare_only": [expert for expert in told.unreachable if named[expert]],
        }
    )


def _facts(table: Tensor, experts: int, vocabulary: int, here: Tensor) -> HashTable:
    """The facts of the rows ``here`` [at most rows] bool."""
    seen = table[: len(here)][here]
    faulty = _faulty(seen, experts)
    return HashTable(
        rows=table.shape[0],
        vocabulary=vocabulary,
        out_of_range=int(_outside(seen, experts).sum()),
        rows_with_repeats=int(_repeats(seen).sum()),
        constant=bool((seen == seen[:1]).all()),
        all_zero=bool((seen == 0).all()),
        unreachable=(~_named(seen, experts)).nonzero().flatten().tolist(),
        tail=_tail(faulty),
        missing=max(0, vocabulary - table.shape[0]),
        busiest=_busiest(seen, experts),
    )


def _busiest(table: Tensor, experts: int) -> Busiest | None:
    named = table[~_outside(table, experts)]
    if not named.numel():
        return None
    expert = int(torch.bincount(named, minlength=experts).argmax())
    return Busiest(expert=expert, share=float((table == expert).any(dim=-1).double().mean()))


def _outside(table: Tensor, experts: int) -> Tensor:
    return (table < 0) | (table >= experts)


def _repeats(table: Tensor) -> Tensor:
    """[rows] bool, whether a row names an expert twice."""
    ordered = table.sort(dim=-1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(dim=-1)


def _faulty(table: Tensor, experts: int) -> Tensor:
    """[rows] bool."""
    return _outside(table, experts).any(dim=-1) | _repeats(table)


def _named(table: Tensor, experts: int) -> Tensor:
    """[experts] bool, whether some row names the expert."""
    return torch.bincount(table[~_outside(table, experts)], minlength=experts) > 0


def _tail(faulty: Tensor) -> int:
    """How many rows at the end are all the faulty ones, 0 where they are not that."""
    count = int(faulty.sum())
    return count if 0 < count < len(faulty) and bool(faulty[-count:].all()) else 0
