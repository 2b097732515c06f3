"""Numbers and lists as a finding says them."""

from collections.abc import Sequence

_SHOWN = 8


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if abs(value) >= 1000 and float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Say a share as a percentage with three significant digits."""
    return f"{100 * share:.3g} %"


def listed(items: Sequence[object], noun: str) -> str:
    """``expert 3``, ``experts 3, 7 and 9``; after eight of them only how many more there are."""
    words = [str(item) for item in items[:_SHOWN]]
    more = len(items) - len(words)
    if len(items) == 1:
        return f"{noun} {words[0]}"
    if more:
        return f"{noun}s {', '.join(words)} and {more} more"
    return f"{noun}s {', '.join(words[:-1])} and {words[-1]}"
