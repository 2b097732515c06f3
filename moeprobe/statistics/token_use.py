"""Token use: which ids an expert attracts, and the published measures of it beside their null."""

from collections.abc import Callable

import torch
from torch import Tensor

from moeprobe.findings.specialisation import FrequentToken, TokenUse
from moeprobe.statistics.token_labels import TokenLabelStatistic

_TOP = 3


def token_use(
    counted: TokenLabelStatistic, ids: Tensor, occurrences: int, text: Callable[[int], str]
) -> TokenUse | None:
    """Read the counts by token id; None where no id was seen.

    Args:
        counted: assignments by token id, its rows in the order of ``ids``.
        ids: [rows] token ids.
        occurrences: how often an id had to be seen.
        text: writes a token id as text.

    """
    rows = counted.tokens > 0
    if not bool(rows.any()):
        return None
    tokens = counted.tokens[rows].double()
    seen = counted.seen.sum(dim=0)[rows].double()
    shuffled = counted.shuffled[:, rows].double()
    return TokenUse(
        ids=int(rows.sum()),
        occurrences=occurrences,
        tokens=int(tokens.sum()),
        vocabulary=_vocabulary(seen, tokens),
        vocabulary_chance=_vocabulary(shuffled, tokens),
        spread=_spread(seen),
        spread_chance=_spread(shuffled),
        top=_top(seen, tokens, ids[rows].tolist(), text),
    )


def _vocabulary(table: Tensor, tokens: Tensor) -> float:
    """OLMoE's vocabulary specialisation, N_xi / N_x at the strongest expert, mean over ids (docs/science.md A3)."""
    return float((table.amax(dim=-1) / tokens).mean())


def _spread(table: Tensor) -> float:
    """OpenMoE's standard deviation of the routing ratios at an id, mean over ids (docs/science.md A4)."""
    ratios = table / table.sum(dim=-1, keepdim=True).clamp_min(1)
    return float(ratios.std(dim=-1, correction=0).mean())


def _top(seen: Tensor, tokens: Tensor, ids: list[int], text: Callable[[int], str]) -> list[list[FrequentToken]]:
    """For every expert the ids that it attracts beyond its load, by what they add to the mutual information."""
    total = seen.sum().clamp_min(1)
    expected = seen.sum(dim=1, keepdim=True) * seen.sum(dim=0, keepdim=True) / total
    gain = torch.where(seen > expected, seen * (seen.clamp_min(1) / expected.clamp_min(1e-300)).log(), 0.0)
    found = []
    for column in range(seen.shape[1]):
        order = gain[:, column].argsort(descending=True, stable=True)[:_TOP].tolist()
        found.append(
            [
                FrequentToken(id=ids[row], text=text(ids[row]), share=float(seen[row, column] / tokens[row]))
                for row in order
                if gain[row, column] > 0
            ]
        )
    return found
