"""What the probe shows about the chance that a token uses an expert, as a sample of effectively fewer tokens.

The tokens of a document are alike. The effect of that on the variance is measured by expert (``design_effect`` of
the load) and shrinks where an expert is rare or nearly always chosen: there, hits (or misses) are lone events
even inside one document. Moving the choice of single experts in the five trained checkpoints down to a
ten-thousandth of the fair share, DEFF - 1 fell as about the cube root of p (1 - p), from 7.5 at the fair share
to 1.7 at a hundredth of it. An expert that has too few hits gets the median of the others, carried over to the
chance that is tested by that law; one that has enough gets its own effect, and never less than that median.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from pydantic import Field

from moeprobe.detectors.binomial import at_least, at_most, lower_bound, upper_bound
from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.wording import number

UNMEASURED_EFFECT = 10.0
"""Tokens worth one where documents could not be compared (docs/science.md E4)."""
_LAW = 1 / 3


class LoadLimits(Limits):
    """Bars of every detector that judges the load."""

    family_error: float = Field(0.01, gt=0, lt=1, description="Chance of one wrong expert or more in the whole model")
    min_sources: int = Field(5, ge=1, description="Sources of text: on one domain healthy experts look dead")
    min_documents: int = Field(30, ge=2, description="Documents, the clusters within which tokens are alike")


@dataclass(frozen=True)
class Sample:
    """Tokens that used each routed expert of one router.

    ``hits`` [experts] of ``tokens``, ``by_source`` (tokens, hits) of every source; ``fair`` is k over the score
    columns, the chance under even routing; ``effects`` [experts] the measured design effects.
    """

    tokens: int
    hits: Sequence[int]
    by_source: Sequence[tuple[int, Sequence[int]]]
    fair: float
    effects: Sequence[float | None]
    _usual: dict[float, float] = field(default_factory=dict, repr=False, compare=False)

    def usual_effect(self, chance: float) -> float:
        """Tokens that are worth one independent token for most experts, were their chance this; at least 1."""
        if chance not in self._usual:
            carried = [
                1 + (effect - 1) * (chance * (1 - chance) / (share * (1 - share))) ** _LAW
                for effect, hits in zip(self.effects, self.hits, strict=True)
                if effect is not None and 0 < (share := hits / self.tokens) < 1
            ]
            self._usual[chance] = max(1.0, median(carried)) if carried else UNMEASURED_EFFECT
        return self._usual[chance]

    def effect(self, expert: int, chance: float) -> float:
        """Tokens that are worth one independent token, where the question is whether p is ``chance``."""
        return max(self.usual_effect(chance), self.effects[expert] or 0.0)

    def so_few(self, expert: int, chance: float) -> float:
        """How likely so few hits or fewer would be, if the expert's chance were this."""
        return at_most(*self._worth(self.hits[expert], self.tokens, self.effect(expert, chance)), chance)

    def so_many(self, expert: int, chance: float) -> float:
        """How likely so many hits or more would be, if the expert's chance were this."""
        return at_least(*self._worth(self.hits[expert], self.tokens, self.effect(expert, chance)), chance)

    def so_many_everywhere(self, expert: int, chance: float) -> float:
        """How likely so many hits would be in the source with the fewest of them."""
        effect = self.effect(expert, chance)
        return max(at_least(*self._worth(hits[expert], size, effect), chance) for size, hits in self.by_source)

    def highest(self, expert: int, error: float, chance: float) -> float:
        """Largest chance that the hits allow, in fair shares; tokens are worth what they are at ``chance``."""
        worth = self._worth(self.hits[expert], self.tokens, self.effect(expert, chance))
        return upper_bound(*worth, error) / self.fair

    def lowest(self, expert: int, error: float, chance: float) -> float:
        """Smallest chance that the hits allow, in fair shares."""
        worth = self._worth(self.hits[expert], self.tokens, self.effect(expert, chance))
        return lower_bound(*worth, error) / self.fair

    def lowest_anywhere(self, expert: int, error: float, chance: float) -> float:
        """Smallest chance that the hits of any source allow."""
        effect = self.effect(expert, chance)
        return min(lower_bound(*self._worth(hits[expert], size, effect), error) for size, hits in self.by_source)

    @staticmethod
    def _worth(hits: int, tokens: int, effect: float) -> tuple[float, float]:
        return hits / effect, tokens / effect


L = TypeVar("L", bound=LoadLimits)


def sample(case: Case[L]) -> Sample | None:
    """Return what this router's load can be judged by, or None with the reason noted in the verdict."""
    shown, router, limits = case.activations(), case.evidence.router, case.limits
    if shown is None:
        return None
    load = shown.load
    if router.top_k >= router.score_columns:
        case.skip("every token uses every expert")
        return None
    sizes = {name: tokens for name, tokens in load.source_tokens.items() if tokens}
    if len(sizes) < limits.min_sources:
        case.skip(
            f"the load is not judged on {len(sizes)} of {limits.min_sources} sources: one domain is uneven by nature"
        )
    if shown.documents < limits.min_documents:
        case.skip(f"too few documents: {number(shown.documents)} of {limits.min_documents}")
    if len(sizes) < limits.min_sources or shown.documents < limits.min_documents:
        return None
    # Columns beyond the routed experts are zero or skip experts. A damaged hash table may name an expert twice
    # for one token, which is still one token.
    experts = router.experts
    return Sample(
        tokens=shown.tokens,
        hits=[min(count, shown.tokens) for count in load.counts[:experts]],
        by_source=[(size, [min(n, size) for n in load.by_source[name][:experts]]) for name, size in sizes.items()],
        fair=router.top_k / router.score_columns,
        effects=(load.design_effect or [None] * experts)[:experts],
    )
