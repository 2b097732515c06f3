"""Does the selection bias follow the balance law (docs/science.md B2)? A clause of bias-runaway, across layers.

With few experts one layer decides little: with 16, a bias that is healthy at 0.6 may show 0 in one layer of two
hundred. All layers that show no more than chance are therefore judged together, and each of them is compared with
the laws of the other layers: a bias that follows one of those belongs there.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from moeprobe.detectors.bias_balance import OPPOSED, UNBALANCES, UNRELATED
from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import number
from moeprobe.findings.evidence import Activations

FOREIGN = "the selection bias belongs to another layer"

_REMEDY = "Check sign and order of the bias against the base checkpoint, and the texts of the probe"
_MIN_EXPERTS = 8
"""Below this the standard error of a correlation, 1/sqrt(E - 3), says nothing."""


class Law(NamedTuple):
    """One layer: its biases [experts], ``wanted`` [experts] what would balance, and their correlation."""

    case: Case[Any]
    bias: list[float]
    wanted: list[float]
    correlation: float

    @property
    def z(self) -> float:
        """Fisher's z of the correlation."""
        return _fisher(self.correlation)

    @property
    def weight(self) -> float:
        """One over the variance of z."""
        return len(self.bias) - 3


def judge_laws(layers: Sequence[tuple[Case[Any], Activations]]) -> None:
    """Compare the biases of all layers with the law: opposed, of another layer, or unrelated alone or together."""
    laws = [law for case, shown in layers if (law := _law(case, shown)) is not None]
    if not laws:
        return
    sigmas = laws[0].case.limits.law_sigmas
    suspects = [law for law in laws if law.z <= sigmas / math.sqrt(law.weight)]
    left = []
    for law in suspects:
        home = _home(law, laws)
        if home is not None:
            _find_foreign(law, *home)
        elif law.z < -sigmas / math.sqrt(law.weight):
            _find_opposed(law)
        else:
            left.append(law)
    if left:
        surely = _together(left, len(laws))
        for law in left:
            _find_unrelated(law, left, len(laws), surely)


def _law(case: Case[Any], shown: Activations) -> Law | None:
    """The law of a layer, None where it is not judged."""
    law, router = shown.balance_law, case.evidence.router
    bias = router.selection_bias
    if law is None or law.correlation is None or bias is None or len(bias.values) < _MIN_EXPERTS:
        return None
    if len(shown.load.source_tokens) < case.limits.min_sources or shown.tokens < case.limits.min_tokens:
        return None
    return Law(case, bias.values, [-value for value in law.quantiles], law.correlation)


def _fisher(correlation: float) -> float:
    return math.atanh(max(-0.999999, min(0.999999, correlation)))


def _home(law: Law, laws: Sequence[Law]) -> tuple[Law, float] | None:
    """The other layer whose law this bias follows beyond chance, and by which correlation."""
    others = [other for other in laws if other is not law and len(other.wanted) == len(law.bias)]
    if not others:
        return None
    correlation, place = max((_correlation(law.bias, other.wanted), place) for place, other in enumerate(others))
    # As many pairs are looked at as there are layers times other layers.
    level = _level(law.case.limits.law_sigmas) / (len(laws) * len(others))
    bar = max(
        -NormalDist().inv_cdf(level) / math.sqrt(law.weight),
        _fisher(law.case.limits.law_healthy),
    )
    return (others[place], correlation) if _fisher(correlation) > bar else None


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    one, other = (math.fsum(values) / len(values) for values in (first, second))
    x, y = [value - one for value in first], [value - other for value in second]
    spread = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread if spread > 0 else 0.0


def _level(sigmas: float) -> float:
    """Chance beyond so many standard errors on one side; not 0, whose quantile is infinite."""
    return max(NormalDist().cdf(-sigmas), 1e-300)


def _mean(laws: Sequence[Law]) -> float:
    return math.fsum(law.z * law.weight for law in laws) / math.fsum(law.weight for law in laws)


def _together(laws: Sequence[Law], layers: int) -> bool:
    """Whether these, the least correlated of so many layers, can hardly be healthy all together.

    Stouffer's sum against the least healthy correlation, times the number of ways to pick so many layers.
    """
    healthy = _fisher(laws[0].case.limits.law_healthy)
    weight = math.fsum(law.weight for law in laws)
    if weight < laws[0].case.limits.law_freedom:
        return False
    away = (_mean(laws) - healthy) * math.sqrt(weight)
    return NormalDist().cdf(away) * math.comb(layers, len(laws)) < _level(laws[0].case.limits.law_sigmas)


def _least_healthy(laws: Sequence[Law]) -> float:
    """Where the interval around the least healthy correlation ends, at this number of experts and layers."""
    limits = laws[0].case.limits
    reach = limits.law_sigmas / math.sqrt(math.fsum(law.weight for law in laws))
    return math.tanh(_fisher(limits.law_healthy) - reach)


def _find_foreign(law: Law, home: Law, correlation: float) -> None:
    _drop_symptom(law.case)
    law.case.find(
        "error",
        f"the selection bias correlates by {number(law.correlation)} with the one that would balance this layer, and "
        f"by {number(correlation)} with that of {_named(home)}: it was trained there",
        quantity="correlation with the balance law of its own layer",
        measured=law.correlation,
        limit="law_healthy",
        cause=FOREIGN,
        remedy="Restore the biases of all layers from the base checkpoint, each in its own layer",
    )


def _named(law: Law) -> str:
    return law.case.place[:1].lower() + law.case.place[1:]


def _find_opposed(law: Law) -> None:
    law.case.find(
        "warning",
        f"the selection bias correlates by {number(law.correlation)} with the one that would balance these texts "
        "(that is its opposite)",
        quantity="standard errors of the correlation with the balance law",
        measured=law.z * math.sqrt(law.weight),
        limit="law_sigmas",
        cause=OPPOSED,
        remedy=_REMEDY,
    )


def _find_unrelated(law: Law, left: Sequence[Law], layers: int, surely: bool) -> None:
    if surely:
        _drop_symptom(law.case)
    experts = len(law.bias)
    alone = len(left) == 1
    so_do = "" if alone else f"; {len(left)} of {layers} layers do so, together by {number(math.tanh(_mean(left)))}"
    law.case.find(
        "warning" if surely else "info",
        f"the selection bias correlates by {number(law.correlation)} with the one that would balance these texts (no "
        f"more than by chance){so_do}; healthy biases of {experts} experts lie above {number(_least_healthy(left))} "
        f"{'in one layer' if alone else 'together'} (a correlation of {number(law.case.limits.law_healthy)} at least, "
        f"less {number(law.case.limits.law_sigmas)} standard errors)",
        quantity="standard errors of the correlation with the balance law",
        measured=law.z * math.sqrt(law.weight),
        limit="law_sigmas",
        cause=UNRELATED,
        remedy=_REMEDY,
    )


def _drop_symptom(case: Case[Any]) -> None:
    """A bias that does not belong here makes the load less even: the same fault."""
    case.findings = [found for found in case.findings if found.cause != UNBALANCES]
