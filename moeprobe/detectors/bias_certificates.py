"""Which experts the selection bias alone settles, whatever the token: exact, by bounds on the scores.

With every score between ``low`` and ``high``, expert e can never be chosen if k others surely outscore
it, and always is if fewer than k others can reach it; where groups are left out, ``bias_groups`` says who can.
No statistics are involved; a brute-force search over scores finds no counterexample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeprobe.detectors.bias_groups import can_be_chosen, can_be_missed
from moeprobe.detectors.scores import score_function, sqrt_softplus
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.router import Groups, Router


@dataclass(frozen=True)
class Settled:
    """Experts never and always chosen.

    ``observed`` if that rests on the scores seen on the probe, ``assumed`` if on scores between 0 and 1 that neither a
    run nor the config shows.
    """

    never: list[int]
    always: list[int]
    observed: bool = False
    assumed: bool = False


def settle(evidence: RouterEvidence, min_tokens: int) -> Settled | None:
    """Return what the bias settles, or None where no bound on the scores is known.

    A bound from the weights (or the range of the function) is tried first; where it settles nothing, the
    range of the scores that at least ``min_tokens`` tokens of the probe showed.
    """
    router = evidence.router
    bias = router.selection_bias
    if bias is None or router.top_k == 0:
        return None
    possible = _possible_groups(router)
    proved = None
    bounds = _score_bounds(evidence)
    if assumed := bounds is None and score_function(evidence) is None and not _ran(evidence):
        bounds = [0.0] * len(bias.values), [1.0] * len(bias.values)
    if bounds is not None:
        fates = [_never_and_always(evidence, *bounds, groups) for groups in possible]
        never, always = (sorted(set.intersection(*map(set, experts))) for experts in zip(*fates, strict=True))
        proved = Settled(never, always, assumed=assumed)
        if proved.never or proved.always:
            return proved
        if assumed:
            return None
    if (bounds := _observed_bounds(evidence, min_tokens)) is not None:
        return Settled(*_never_and_always(evidence, *bounds, router.groups), observed=True)
    return proved


def _ran(evidence: RouterEvidence) -> bool:
    """Whether the rule was measured."""
    return evidence.activations is not None or evidence.router.selection_agreement is not None


def _possible_groups(router: Router) -> list[Groups | None]:
    """How the selection may be limited to groups: as measured, else every way that agrees with what is declared."""
    declared = router.declared.groups
    if router.groups is not None or declared is None or router.selection_agreement is not None:
        return [router.groups]
    count, kept = declared
    if kept >= count or router.score_columns % count:
        return [None]
    ways: list[Groups | None] = [None]
    for fill in ("-inf", "0"):
        ways += [
            Groups(count=count, kept=kept, score="top2-sum", fill=fill),
            Groups(count=count, kept=kept, score="max", fill=fill),
        ]
    return ways


def contradicted(evidence: RouterEvidence, settled: Settled) -> list[int]:
    """Experts whose load on the probe belies the certificate: the selection rule is then not as read."""
    shown = evidence.activations
    if shown is None or not evidence.router.verified:
        return []
    counts = shown.load.counts
    surely = [e for e in settled.always if e < len(counts) and counts[e] < shown.tokens * 0.99]
    never = [e for e in settled.never if e < len(counts) and counts[e] > shown.tokens * 0.01]
    return sorted(surely + never)


def left_out_groups_win(evidence: RouterEvidence) -> bool:
    """Whether masked groups, filled by 0, beat every kept expert because all biased scores are negative."""
    router, bounds = evidence.router, _score_bounds(evidence)
    if router.groups is None or router.selection_bias is None or router.groups.fill == "-inf" or bounds is None:
        return False
    bias = router.selection_bias.values
    left_out = len(bias) // router.groups.count * (router.groups.count - router.groups.kept)
    return left_out >= router.top_k and all(b + high < 0 for b, high in zip(bias, bounds[1], strict=True))


def _score_bounds(evidence: RouterEvidence) -> tuple[list[float], list[float]] | None:
    """Lowest and highest score of every expert for any input."""
    bias = evidence.router.selection_bias
    columns = len(bias.values) if bias else 0
    function = score_function(evidence)
    if evidence.router.bias_on == "logits":
        bound = evidence.weights.logit_bound if evidence.weights else None
        return ([-b for b in bound], bound) if bound and len(bound) == columns else None
    if function in ("sigmoid", "softmax"):
        return [0.0] * columns, [1.0] * columns
    logits = evidence.weights.logit_bound if evidence.weights else None
    if function == "sqrtsoftplus" and logits and len(logits) == columns:
        return [0.0] * columns, [sqrt_softplus(bound) for bound in logits]
    return None


def _observed_bounds(evidence: RouterEvidence, min_tokens: int) -> tuple[list[float], list[float]] | None:
    """Lowest and highest score seen on the probe, the same for every expert."""
    bias, shown = evidence.router.selection_bias, evidence.activations
    if shown is None or shown.tokens < min_tokens or not evidence.router.verified:
        return None
    logits = shown.logits
    if bias is None or logits is None or logits.smallest is None or logits.largest is None or logits.nonfinite:
        return None
    columns = len(bias.values)
    if evidence.router.bias_on == "logits":
        return [logits.smallest.value] * columns, [logits.largest.value] * columns
    if score_function(evidence) != "sqrtsoftplus":
        return None
    low, high = sqrt_softplus(logits.smallest.value), sqrt_softplus(logits.largest.value)
    return [low] * columns, [high] * columns


def _never_and_always(
    evidence: RouterEvidence, low: Sequence[float], high: Sequence[float], groups: Groups | None
) -> tuple[list[int], list[int]]:
    router = evidence.router
    bias = np.asarray(router.selection_bias.values if router.selection_bias else [])
    least, most = bias + np.asarray(low), bias + np.asarray(high)
    columns = np.arange(len(bias))
    if router.top_k >= len(bias):  # where every column is chosen, being chosen says nothing
        return [], []
    if groups is not None:
        never = ~can_be_chosen(groups, router.top_k, least, most)
        always = ~can_be_missed(groups, router.top_k, least, most)
        return columns[never].tolist(), columns[always].tolist()
    rivals = columns[:, None] != columns[None, :]
    surely_ahead = (rivals & (least[None, :] > most[:, None])).sum(axis=1)
    within_reach = (rivals & (most[None, :] >= least[:, None])).sum(axis=1)
    return columns[surely_ahead >= router.top_k].tolist(), columns[within_reach < router.top_k].tolist()
