"""Watched: the choice of a block that chooses for itself, told from what its experts executed.

Much code has a plain Linear as its gate and makes the choice inside the forward pass of the block, where no module
shows it. Where every expert is a module of its own, the rows that each received are found again among the rows of
the gate's input, bit for bit; and of the usual rules, the one whose weighted sum of the experts' outputs is what the
block gave must be the rule of the weights. Where none is, nothing is claimed.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from moeprobe.routers.routing import UNUSED, Routing
from moeprobe.routers.rule import SCORE_FUNCTIONS, scores

_ROWS = 1024
"""Rows by which the rules are told apart."""
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}

Ran = Mapping[int, tuple[Tensor, Tensor]]
"""Expert -> its input and its output, each [rows it took, hidden]."""


def routing_by_rows(inputs: Tensor, logits: Tensor, ran: Ran, routed: Tensor) -> Routing | None:
    """Which experts took which row, with which weight; None where rows or rule cannot be made out.

    Args:
        inputs: [rows, hidden] the gate's input.
        logits: [rows, experts] the gate's output.
        ran: what each expert executed.
        routed: [rows, hidden] the block's output without its shared expert.

    """
    places = {expert: _places(inputs, given) for expert, (given, _) in ran.items()}
    if any(place is None for place in places.values()) or max(ran, default=0) >= logits.shape[-1]:
        return None
    chosen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for expert, place in places.items():
        assert place is not None
        chosen[place, expert] = True
    k = int(chosen.sum(dim=-1).max())
    if not 0 < k < logits.shape[-1]:
        return None
    order = logits.float().masked_fill(~chosen, float("-inf")).topk(k, dim=-1).indices
    used = chosen.gather(-1, order)
    outputs = _outputs(ran, places, order[:_ROWS], inputs.shape[-1])
    for weights in _fitting(logits, order, used, outputs, routed[:_ROWS].double(), inputs.dtype):
        return Routing(order.masked_fill(~used, UNUSED), weights, logits)
    return None


def _places(inputs: Tensor, given: Tensor) -> Tensor | None:
    """For every row of ``given`` the row of ``inputs`` that it is, None where one is no such row.

    Equal rows are handed out in order, each once.
    """
    if given.dtype != inputs.dtype or given.shape[-1] != inputs.shape[-1]:
        return None
    order = _keys(inputs).sort(stable=True)
    wanted = _keys(given).sort(stable=True)
    first = torch.searchsorted(order.values, wanted.values)
    repeat = torch.arange(len(first), device=first.device) - torch.searchsorted(wanted.values, wanted.values)
    place = first + repeat
    if bool((place >= len(order.values)).any()) or not torch.equal(order.values[place], wanted.values):
        return None
    found = torch.empty_like(place)
    found[wanted.indices] = order.indices[place]
    return found


def _keys(rows: Tensor) -> Tensor:
    """One number a row, from all its bits; -0.0 and 0.0 count as different, NaN as equal to itself."""
    bits = rows.contiguous().view(_BITS[rows.element_size()]).long()
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (rows.shape[-1],), generator=generator) * 2 + 1
    return (bits * odd.to(rows.device)).sum(dim=-1)


def _outputs(ran: Ran, places: Mapping[int, Tensor | None], order: Tensor, hidden: int) -> Tensor:
    """Outputs [rows, k, hidden] float64 of the experts in the slots ``order`` [rows, k]; zeros where none ran."""
    outputs = torch.zeros(*order.shape, hidden, dtype=torch.float64, device=order.device)
    for expert, (_, out) in ran.items():
        place = places[expert]
        assert place is not None
        row, slot = (order == expert).nonzero(as_tuple=True)
        within = torch.full((int(place.max()) + 1 if len(place) else 0,), -1, device=order.device)
        within[place] = torch.arange(len(place), device=order.device)
        took = row[row < len(within)]
        took, slot = took[within[took] >= 0], slot[row < len(within)][within[took] >= 0]
        outputs[took, slot] = out[within[took]].double()
    return outputs


def _fitting(
    logits: Tensor, order: Tensor, used: Tensor, outputs: Tensor, routed: Tensor, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Weights [rows, k] in ``dtype`` of the rules that give the block's output, the best first."""
    tolerance = 1e-4 if torch.finfo(dtype).eps < 1e-6 else 2e-2
    size = float(routed.norm())
    fits = []
    for function in SCORE_FUNCTIONS:
        score = scores(logits.float(), function).gather(-1, order).masked_fill(~used, 0)
        for weights in (score, score / score.sum(dim=-1, keepdim=True).clamp_min(1e-20)):
            rounded = weights.to(dtype)
            summed = (outputs * rounded[: len(outputs), :, None].double()).sum(dim=1)
            norm = float(summed.square().sum())
            factor = float((summed * routed).sum()) / norm if norm > 0 else 0.0
            error = float((routed - factor * summed).norm()) / size if size > 0 else float("inf")
            if factor > 0 and error <= tolerance:
                fits.append((error, rounded if abs(factor - 1) < tolerance else rounded * factor))
    for _, weights in sorted(fits, key=lambda fit: fit[0]):
        yield weights
