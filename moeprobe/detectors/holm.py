"""Many tests at once: Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979)."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(chances: Mapping[Key, float], family_error: float) -> dict[Key, float]:
    """Hypotheses that fall, each with the error level at which it fell.

    The chance that any true hypothesis is among them is at most ``family_error``, whatever the dependence.

    Args:
        chances: hypothesis -> chance of data as extreme as those seen if it were true (its p-value).
        family_error: accepted chance of one wrong rejection or more, over all hypotheses together.

    """
    fallen: dict[Key, float] = {}
    for place, (key, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        level = family_error / (len(chances) - place)
        if chance > level:
            break
        fallen[key] = level
    return fallen
