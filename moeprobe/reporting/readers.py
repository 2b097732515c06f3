"""How a number is read off one router's evidence; None stays None on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.reporting.text import plain
from moeprobe.reporting.words import number

Cell = float | int | str | None


@dataclass(frozen=True)
class Quantity:
    """A number (or word) of one router. ``read`` gives None where it was not measured."""

    label: str
    read: Callable[[RouterEvidence], Cell]
    digits: int = 3

    def text(self, evidence: RouterEvidence) -> str:
        """Write it for a table: a dash where it was not measured."""
        cell = self.read(evidence)
        return plain(cell) if isinstance(cell, str) else number(cell, self.digits)

    def value(self, evidence: RouterEvidence) -> float | None:
        """Read it as a number, None where it is none."""
        cell = self.read(evidence)
        return None if cell is None or isinstance(cell, str) else float(cell)


def at(path: str) -> Callable[[RouterEvidence], Cell]:
    """Reader of a dotted path; None as soon as a part was not measured; a list counts its entries."""

    def read(evidence: RouterEvidence) -> Cell:
        value: object = evidence
        for name in path.split("."):
            value = getattr(value, name)
            if value is None:
                return None
        if isinstance(value, list):
            return len(value)
        return value if isinstance(value, float | int | str) else str(value)

    return read


def largest(path: str) -> Callable[[RouterEvidence], Cell]:
    """Reader of the largest number of a list at a dotted path; None where it was not measured or is empty."""
    first, *rest = path.split(".")

    def read(evidence: RouterEvidence) -> Cell:
        found: Any = getattr(evidence, first)
        for name in rest:
            found = None if found is None else getattr(found, name)
        return max(found) if found else None

    return read


def spread(path: str) -> Callable[[RouterEvidence], Cell]:
    """Reader of Quantiles at a path, as the words ``median (5 % to 95 %)``."""
    low, middle, high = (at(f"{path}.{name}") for name in ("p05", "p50", "p95"))

    def read(evidence: RouterEvidence) -> Cell:
        if middle(evidence) is None:
            return None
        return f"{number(middle(evidence))} ({number(low(evidence))} to {number(high(evidence))})"

    return read


def fair_shares(counts: Sequence[int]) -> list[float] | None:
    """Load in units of the fair share, tokens * k / experts; None where nothing was counted."""
    total = sum(counts)
    return [count * len(counts) / total for count in counts] if total else None


def average(values: Sequence[float]) -> float:
    """Mean of at least one number; where infinities meet it is NaN, not an error."""
    return sum(values) / len(values)


def evenness(counts: Sequence[int]) -> float | None:
    """Entropy of the load over log(experts): 1 when even, 0 when one expert gets everything."""
    total = sum(counts)
    if not total or len(counts) < 2:
        return None
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))


def centred_bias(evidence: RouterEvidence) -> list[float] | None:
    """Take the median off the selection bias [experts]: the offset has no influence on top-k."""
    bias = evidence.router.selection_bias
    finite = [value for value in bias.values if math.isfinite(value)] if bias else []
    if bias is None or not finite:
        return None
    middle = median(finite)
    return [value - middle for value in bias.values]


def quartiles(values: Sequence[float]) -> tuple[float, float] | None:
    """First and third quartile, None where a value is not finite or there are fewer than two."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def of_load(pick: Callable[[list[int]], Cell]) -> Callable[[RouterEvidence], Cell]:
    """Reader of a number made from the counts [experts]."""
    return lambda evidence: pick(evidence.activations.load.counts) if evidence.activations else None


def of_bias(pick: Callable[[list[float]], Cell]) -> Callable[[RouterEvidence], Cell]:
    """Reader of a number made from the selection bias [experts]; NaN where one of them is not finite."""

    def read(evidence: RouterEvidence) -> Cell:
        bias = evidence.router.selection_bias
        if bias is None or not bias.values:
            return None
        return pick(bias.values) if all(map(math.isfinite, bias.values)) else math.nan

    return read


def of_share(pick: Callable[[list[float]], float]) -> Callable[[RouterEvidence], Cell]:
    """Reader of a number made from the load in fair shares [experts]."""
    return of_load(lambda counts: pick(shares) if (shares := fair_shares(counts)) else None)


def of_design(pick: Callable[[list[float]], float]) -> Callable[[RouterEvidence], Cell]:
    """Reader of a number made from the design effects of the experts that have one."""

    def read(evidence: RouterEvidence) -> Cell:
        shown = evidence.activations
        effects = [one for one in (shown.load.design_effect if shown else None) or () if one is not None]
        return pick(effects) if effects else None

    return read


def of_rows(pick: Callable[[list[float]], float]) -> Callable[[RouterEvidence], Cell]:
    """Reader of a number made from the norms of the gate's rows [experts]."""
    return lambda evidence: pick(found.row_norms) if (found := evidence.weights) and found.row_norms else None


def largest_bound(evidence: RouterEvidence) -> float | None:
    """Read the largest logit that any input can cause, None where it could not be proved."""
    bounds = evidence.weights.logit_bound if evidence.weights else None
    return max(bounds) if bounds else None


def interquartile(values: list[float]) -> float | None:
    """Third quartile minus first."""
    found = quartiles(values)
    return found[1] - found[0] if found else None
