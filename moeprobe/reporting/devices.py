"""Load put to use: room for tokens, the losses of training, and experts on several devices."""

from collections.abc import Sequence

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.specialisation import Capacity, Drops
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.depth import Depth
from moeprobe.reporting.document import Document, Figure, Heading, folded, joined, table, used_columns
from moeprobe.reporting.readers import average, fair_shares
from moeprobe.reporting.words import MISSING, number, percent

NEAR = 0.2
"""How far from the fair load an expert may be to count as balanced."""

_ROOM = (
    "Some systems give every expert room for a fixed number of assignments, the capacity factor times its fair "
    "part, and drop what does not fit: a dropped token skips that expert. First choices are placed before second "
    "ones, early tokens before late ones, so drops gather towards the end of the text."
)
_SIMULATED = (
    "This is a simulation: the model drops nothing when it runs, and would route otherwise had it been trained with"
    " drops. With the sequence as the group every text has room of its own; with the batch the texts that were run "
    "together (about 4,000 tokens) share it, those that come first being served first."
)
_MEASURED = "This model does drop tokens when it runs; the shares are measured, at its own capacity and these batches."
_BALANCE = (
    "What training code would log, without its weights, on these texts as one batch. The balance loss (Switch, "
    "GShard) is 1 where load and probabilities are even, k in the form of transformers. It hardly moves unless "
    "experts are both busy and probable, so a small value does not show that every expert is used; it also depends "
    "on the batch. The z-loss (ST-MoE) is the mean square of ln sum exp of the logits. It only says how large "
    "logits are: it grows with the number of experts, so ln sum exp is also given without ln E, and it says nothing"
    " about who is chosen."
)
_NO_SOFTMAX = (
    "The routers marked 'no' do not choose by a softmax. For them both forms of the balance loss describe a softmax"
    " that the model does not use, without its selection bias, as training code of that kind would; read the load "
    "instead."
)
_DEVICES = (
    "A plan for expert parallelism: the experts of each layer on N devices, equally many on each. Imbalance is the "
    "load of the fullest device over the mean, so 1.3 means that the others wait for 30 % more work than was "
    "needed. Contiguous is the usual split in the order of the experts; packed puts the busiest expert first onto "
    "the lightest device with room (balanced packing of DeepSeek's EPLB, Graham's longest-processing-time rule). "
    "The packing is planned on half of the documents and tried on the other half, as it would be in use. Devices a "
    "token reaches is the traffic: to how many of them it must be sent. Other texts load experts otherwise; plan "
    "with your own (--probe)."
)


def capacity(routers: Sequence[RouterEvidence], axis: Depth, picture: Picture | None) -> Document:
    """Drops by capacity factor over layers, along the sequence, and by layer."""
    found = [(one.router.path, s.capacity) for one in routers if (s := one.specialisation) and s.capacity]
    if not found:
        return ()
    by_kind: dict[tuple[str, float], list[tuple[str, Drops]]] = {}
    for path, one in found:
        for drops in one.simulated:
            by_kind.setdefault((drops.group, drops.factor), []).append((path, drops))
    rows = []
    for (group, factor), over_layers in by_kind.items():
        path, worst = max(over_layers, key=lambda pair: pair[1].share)
        rows.append(
            {
                "one capacity for": f"a {group}",
                "capacity factor": number(factor),
                "dropped, mean over layers": percent(average([one.share for _, one in over_layers])),
                "worst layer": f"{percent(worst.share)} in {axis.heading} {axis.names[path]}",
                "first tenth": _tenth(over_layers, 0),
                "last tenth": _tenth(over_layers, -1),
            }
        )
    layers = []
    for path, one in found:
        cells = {f"{drops.group}, {number(drops.factor)}": percent(drops.share) for drops in one.simulated}
        layers.append({axis.heading: axis.names[path]} | cells | _measured(one))
    measured = any(one.measured is not None for _, one in found)
    return joined(
        Heading(3, "Room for tokens: capacity and drops"),
        _ROOM,
        _SIMULATED if by_kind else "",
        _MEASURED if measured else "",
        (Figure(picture),) if picture else (),
        table(rows),
        folded("Dropped assignments by layer", table(used_columns(layers))),
    )


def _measured(one: Capacity) -> dict[str, str]:
    tenths = one.measured_by_tenth or [None]
    return {
        "measured": percent(one.measured),
        "in the first tenth": percent(tenths[0]),
        "in the last tenth": percent(tenths[-1]),
    }


def _tenth(drops: Sequence[tuple[str, Drops]], place: int) -> str:
    values = [value for _, one in drops if (value := one.by_tenth[place]) is not None]
    return percent(average(values)) if values else MISSING


def balance(routers: Sequence[RouterEvidence], axis: Depth, pooled: float | None) -> Document:
    """Share of experts near the fair load beside the auxiliary losses."""
    rows, odd = [], False
    for one in routers:
        shares = fair_shares(one.activations.load.counts) if one.activations else None
        losses = one.specialisation.losses if one.specialisation else None
        near = sum(abs(share - 1) <= NEAR for share in shares) / len(shares) if shares else None
        odd = odd or bool(losses and not losses.softmax)
        rows.append(
            {
                axis.heading: axis.names[one.router.path],
                "experts within 20 % of fair load": percent(near),
                "balance loss (even: 1)": number(losses.switch if losses else None),
                "as in transformers": number(losses.transformers if losses else None),
                "even: k": number(one.router.top_k),
                "z-loss": number(losses.z if losses else None),
                "ln sum exp - ln E": number(losses.log_sum_exp if losses else None),
                "softmax router": number(losses.softmax if losses else None),
            }
        )
    whole = f"Pooled over all layers, transformers would log a balance loss of {number(pooled, 4)}." if pooled else ""
    return joined(
        Heading(3, "Balance, as training sees it"),
        _BALANCE,
        table(used_columns(rows)),
        whole,
        _NO_SOFTMAX if odd else "",
    )


def devices(routers: Sequence[RouterEvidence], axis: Depth) -> Document:
    """Placement by number of devices, over layers and by layer."""
    found = [
        (one.router.path, plan)
        for one in routers
        if (s := one.specialisation) and s.placement
        for plan in s.placement.plans
    ]
    if not found:
        return ()
    rows = []
    for count in sorted({plan.devices for _, plan in found}):
        plans = [plan for _, plan in found if plan.devices == count]
        rows.append(
            {
                "devices": number(count),
                "layers": number(len(plans)),
                "imbalance, contiguous": number(average([plan.contiguous for plan in plans])),
                "worst layer": number(max(plan.contiguous for plan in plans)),
                "imbalance, packed": number(average([plan.packed for plan in plans])),
                "worst packed": number(max(plan.packed for plan in plans)),
                "devices a token reaches": number(average([plan.contiguous_sent for plan in plans])),
                "reached if packed": number(average([plan.packed_sent for plan in plans])),
            }
        )
    layers = [
        {
            axis.heading: axis.names[path],
            "devices": number(plan.devices),
            "contiguous": number(plan.contiguous),
            "packed": number(plan.packed),
            "reached": number(plan.contiguous_sent),
            "reached if packed": number(plan.packed_sent),
        }
        for path, plan in found
    ]
    return joined(Heading(3, "Experts on several devices"), _DEVICES, table(rows), folded("By layer", table(layers)))
