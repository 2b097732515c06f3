"""Numbers, layers and counts as a reader wants them."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from moeprobe.findings.numbers import Interval

MISSING = "–"
"""Printed for what was not measured; it never stands for zero."""


def number(value: float | int | str | bool | None, digits: int = 3) -> str:
    """Write ``digits`` significant digits; integers whole, non-finite values plainly, None as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        return _trimmed(f"{value:,.{max(0, digits - 1 - exponent)}f}")
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{_trimmed(mantissa)}e{int(power)}"


def percent(share: float | None) -> str:
    """Write a share of the whole in per cent, None as a dash."""
    return MISSING if share is None else f"{number(100 * share)} %"


def measured_and_limit(measured: float | int | None, limit: float | int | None) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to tell them apart (at most nine)."""
    digits = 3
    while measured != limit and digits < 9 and number(measured, digits) == number(limit, digits):
        digits += 1
    return number(measured, digits), number(limit, digits)


def interval(value: Interval | None) -> str:
    """``1.2 (1.1 to 1.4)``, or the value alone where no interval could be drawn."""
    if value is None:
        return MISSING
    if value.low is None or value.high is None:
        return number(value.value)
    return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"


def span(values: Sequence[float | int]) -> str:
    """``0.1 to 0.4``, or one number where all print the same; NaN is named, not dropped."""
    finite = sorted(value for value in values if not math.isnan(value))
    ends = [number(value) for value in (finite[:1] + finite[-1:])]
    text = " to ".join(dict.fromkeys(ends))
    if len(finite) == len(values):
        return text
    return f"{text}, and NaN" if text else "NaN"


def ranges(numbers: Iterable[int], most: int = 24) -> str:
    """``3-7, 12``; even steps as ``1-59 in steps of 2``; after ``most`` parts the rest is only counted."""
    found = sorted(set(numbers))
    steps = {after - before for before, after in pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]}-{found[-1]} in steps of {steps.pop()}"
    runs: list[list[int]] = []
    for value in found:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    hidden = sum(len(run) for run in runs[most:])
    return ", ".join(parts[:most]) + (f" and {hidden} more" if hidden else "")


def amount(count: int) -> str:
    """A large count in words: ``4.21 billion``."""
    for size, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{number(count / size)} {name}"
    return number(count)


def plural(count: int, noun: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
