"""Tables with one row a router."""

from collections.abc import Mapping, Sequence

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.reporting.depth import depth
from moeprobe.reporting.document import Document, table, used_columns
from moeprobe.reporting.quantities import QUANTITIES
from moeprobe.reporting.readers import fair_shares
from moeprobe.reporting.words import MISSING, interval, number

Row = dict[str, str]


def sheet(routers: Sequence[RouterEvidence], names: Sequence[str], more: Mapping[str, Row] | None = None) -> Document:
    """Tabulate the named quantities of every router, then the cells that ``more`` has for its path.

    Columns and rows in which nothing was measured are left out; nothing where nothing is left.
    """
    axis = depth(routers)
    rows = []
    for one in routers:
        cells = {QUANTITIES[name].label: QUANTITIES[name].text(one) for name in names}
        if any(text != MISSING for text in cells.values()):
            rows.append({axis.heading: axis.names[one.router.path]} | cells | (more or {}).get(one.router.path, {}))
    return table(used_columns(rows))


def load_sheet(routers: Sequence[RouterEvidence]) -> Document:
    """Load in fair shares with the experts at its ends, and MaxVio with its 99 % interval, floor and twin."""
    axis = depth(routers)
    rows = []
    for one in routers:
        load = one.activations.load if one.activations else None
        shares = fair_shares(load.counts) if load else None
        if load is None or shares is None:
            continue
        rows.append(
            {
                axis.heading: axis.names[one.router.path],
                "least used": _end(shares, min(shares)),
                "most used": _end(shares, max(shares)),
                "not seen": f"{shares.count(0)} of {len(shares)}",
                "MaxVio (99 %)": interval(load.max_vio),
                "by chance": number(load.max_vio_floor),
                "without bias": interval(load.unbiased_max_vio),
                "evenness": QUANTITIES["evenness"].text(one),
            }
        )
    return table(used_columns(rows))


def share_sheet(routers: Sequence[RouterEvidence]) -> Document:
    """Tabulate the load of every expert in fair shares, one row a router and one column an expert."""
    axis = depth(routers)
    found = {
        one.router.path: shares
        for one in routers
        if one.activations and (shares := fair_shares(one.activations.load.counts))
    }
    experts = range(max(map(len, found.values()), default=0))
    return table(
        [
            {axis.heading: axis.names[path]}
            | {str(expert): number(shares[expert]) if expert < len(shares) else "" for expert in experts}
            for path, shares in found.items()
        ]
    )


def _end(shares: Sequence[float], value: float) -> str:
    places = [expert for expert, share in enumerate(shares) if share == value]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{number(value)} (expert {places[0]}{more})"
