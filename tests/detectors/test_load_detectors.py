"""dead-experts and overloaded-experts: proved on enough tokens of a mixture, or not said at all."""

import math
import random

import numpy as np
import pytest
import torch

from moeprobe.detectors import dead_experts, load_sample, overloaded_experts
from moeprobe.detectors.load_sample import UNMEASURED_EFFECT, Sample
from moeprobe.detectors.registry import resolve_limits
from moeprobe.errors import OptionError
from moeprobe.findings.evidence import Load, RouterEvidence
from moeprobe.statistics.clusters import CLUSTERS, assign, design_effects

from .synthetic import EXPERTS, SOURCES, TOKENS, K, hashed, learned, load, problems, run

DEAD, OVER = "dead-experts", "overloaded-experts"
FAIR = TOKENS * K // EXPERTS


def shaped(rho: list[float], tokens: int, k: int, effect: float | None = 4.0, sources: int = 5) -> RouterEvidence:
    """A router whose experts have these loads in fair shares, in every source alike."""
    experts = len(rho)
    counts = [round(r * tokens * k / experts) for r in rho]
    seen = load(
        counts,
        by_source={str(s): [count // sources for count in counts] for s in range(sources)},
        source_tokens={str(s): tokens // sources for s in range(sources)},
        design_effect=[effect if count >= 30 else None for count in counts],
    )
    return learned(
        facts={"experts": experts, "score_columns": experts, "top_k": k, "selection_bias": None},
        load=seen,
        tokens=tokens,
    )


def one(rho: float, experts: int = EXPERTS) -> list[float]:
    """Expert 3 at ``rho`` fair shares, the rest even."""
    return [rho if e == 3 else (experts - rho) / (experts - 1) for e in range(experts)]


def test_an_expert_that_is_never_chosen_is_named() -> None:
    checks, (found,) = run(DEAD, learned(0), shaped(one(0), TOKENS, K))
    assert (found.severity, found.cause, found.experts) == ("warning", dead_experts.NEVER_USED, [3])
    assert (found.limit, found.limit_name) == (0.01, "dead-experts.dead_share")
    # DEFF - 1 falls with the cube root of p (1 - p) from the even share to the tested one.
    share = K / EXPERTS / 100
    even = (EXPERTS / (EXPERTS - 1)) * K / EXPERTS
    effect = 1 + 3 * (share * (1 - share) / (even * (1 - even))) ** (1 / 3)
    level = 0.01 / (2 * EXPERTS)
    assert found.measured == pytest.approx((1 - level ** (effect / TOKENS)) / (K / EXPERTS), rel=1e-3)
    assert "expert 3 gets at most" in found.message
    assert "0 uses in 8,192 tokens of 5 sources" in found.message
    assert "prune" in found.remedy
    assert [check.verdict for check in checks] == ["clean", "finding"]


def test_the_limit_from_both_sides() -> None:
    """With these tokens the bound of an unseen expert is a known number; a limit on either side of it decides."""
    seen = shaped(one(0), TOKENS, K)
    bound = run(DEAD, seen)[1][0].measured
    assert bound < 0.01
    assert run(DEAD, seen, limits={"dead_share": bound * 1.1})[1] != []
    checks, findings = run(DEAD, seen, limits={"dead_share": bound * 0.9})
    assert findings == []
    assert checks[0].verdict == "skipped"
    assert "1 of 16 experts were not seen (each at most" in checks[0].reason
    # Seen too often to be called dead: 8192 tokens, 20.5 expected at the limit.
    assert [f.experts for f in run(DEAD, shaped(one(2 / FAIR), TOKENS, K))[1]] == [[3]]
    assert run(DEAD, shaped(one(15 / FAIR), TOKENS, K))[1] == []


def test_too_few_tokens_never_say_dead() -> None:
    checks, findings = run(DEAD, shaped(one(0), 2048, K))
    assert findings == []
    (check,) = checks
    assert check.verdict == "skipped"
    assert check.reason.startswith("too few tokens: 2,048 are worth 1,")
    assert "of the 2,948 independent ones" in check.reason
    assert "of a fair share, 99 %" in check.reason
    assert "dead" not in check.reason


def test_many_experts_and_few_tokens_look_dead_and_are_not() -> None:
    """docs/science.md H2: 384 experts at 256 tokens under perfect balance."""
    picks = torch.rand(256, 384, generator=torch.Generator().manual_seed(0)).topk(6).indices
    counts = torch.bincount(picks.flatten(), minlength=384).tolist()
    rho = [count * 384 / (256 * 6) for count in counts]
    layers = [shaped(rho, 256, 6, effect=1.0) for _ in range(4)]
    assert counts.count(0) > 0
    checks, findings = run(DEAD, *layers)
    assert findings == []
    assert {check.verdict for check in checks} == {"skipped"}
    assert f"{counts.count(0)} of 384 experts were not seen" in checks[0].reason
    assert problems(run(OVER, *layers)[1]) == []


def test_published_unevenness_is_healthy() -> None:
    """OLMoE (docs/science.md A1): least 0.19 of a fair share and MaxVio 2 on C4, MaxVio 3 after fine-tuning."""
    dice = random.Random(0)
    for low, high in ((0.19, 3.0), (0.26, 4.0), (0.13, 2.8)):
        middle = [math.exp(dice.gauss(-0.1, 0.4)) for _ in range(62)]
        scale = (64 - low - high) / sum(middle)
        seen = shaped([low, high, *(m * scale for m in middle)], 200_000, 8)
        for name in (DEAD, OVER):
            checks, findings = run(name, *[seen] * 16)
            assert findings == []
            assert {check.verdict for check in checks} == {"clean"}


def test_holm_and_not_one_test_at_a_time() -> None:
    """A count that is convincing in one layer is not among four hundred experts; a second dead one helps."""
    alone = shaped(one(0), 6000, K)
    even = [learned(layer) for layer in range(1, 40)]
    assert [f.experts for f in run(DEAD, alone)[1]] == [[3]]
    assert run(DEAD, alone, *even)[1] == []
    assert "of the 4,4" in run(DEAD, alone, *even)[0][0].reason


def test_experts_of_a_router_are_one_finding() -> None:
    rho = [0.0, 0.0, *[EXPERTS / (EXPERTS - 2)] * (EXPERTS - 2)]
    _, (found,) = run(DEAD, shaped(rho, TOKENS, K))
    assert found.experts == [0, 1]
    assert "experts 0 and 1 get at most" in found.message


@pytest.mark.parametrize("name", [DEAD, OVER])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sources": 4}, "the load is not judged on 4 of 5 sources: one domain is uneven by nature"),
        ({"sources": 1}, "the load is not judged on 1 of 5 sources: one domain is uneven by nature"),
        ({"documents": 29}, "too few documents: 29 of 30"),
    ],
)
def test_only_on_a_mixture(name: str, changes: dict, reason: str) -> None:
    sources, documents = changes.get("sources", 5), changes.get("documents", 60)
    rho = [0.0] * 8 + [0.1] * 4 + [3.9] * 4
    seen = shaped(rho, TOKENS, K, sources=sources)
    shown = seen.activations.model_copy(update={"documents": documents})
    checks, findings = run(name, seen.model_copy(update={"activations": shown}))
    assert (checks[0].verdict, checks[0].reason, findings) == ("skipped", reason, [])
    enough = seen.activations.model_copy(update={"documents": 30})
    limits = {"min_sources": float(sources)}
    assert run(name, seen.model_copy(update={"activations": enough}), limits=limits)[1] != []


@pytest.mark.parametrize("name", [DEAD, OVER])
@pytest.mark.parametrize(
    ("seen", "verdict", "reason"),
    [
        (learned(weights_only=True), "skipped", "needs a forward pass"),
        (learned(facts={"verified": False, "reason": "it fired twice"}), "failed", "it fired twice"),
        (learned(facts={"top_k": EXPERTS}), "skipped", "every token uses every expert"),
    ],
)
def test_what_cannot_be_judged_says_why(name: str, seen: RouterEvidence, verdict: str, reason: str) -> None:
    checks, findings = run(name, seen)
    assert (checks[0].verdict, checks[0].reason, findings) == (verdict, reason, [])


def test_zero_and_skip_experts_are_exempt() -> None:
    counts = [FAIR] * (EXPERTS - 2) + [0, TOKENS]
    seen = learned(facts={"experts": EXPERTS - 2}, load=load(counts))
    for name in (DEAD, OVER):
        checks, findings = run(name, seen)
        assert (checks[0].verdict, findings) == ("clean", [])


def test_clean_says_who_is_used_least_and_most() -> None:
    seen = shaped(one(0.2), TOKENS, K)
    assert run(DEAD, seen)[0][0].reason == "every expert was seen; expert 3 least, at 0.2 of a fair share"
    assert run(OVER, shaped(one(1.5), TOKENS, K))[0][0].reason == "expert 3 is used most, at 1.5 fair shares"


@pytest.mark.parametrize(("rho", "fires"), [(5.6, True), (5.2, False), (4.0, False)])
def test_more_than_twelve_times_the_fair_odds(rho: float, fires: bool) -> None:
    _, findings = run(OVER, *[shaped(one(rho, 64), 20_000, 8)] * 4)
    assert problems(findings) == [("warning", overloaded_experts.OVERLOADED)] * 4 * fires
    if fires:
        assert findings[0].experts == [3]
        assert 12 < findings[0].measured < (0.7 / 0.3) / (1 / 7)
        assert findings[0].limit_name == "overloaded-experts.overload_odds"


@pytest.mark.parametrize(
    ("k", "experts", "below", "above"),
    [(2, 8, 0.79, 0.81), (4, 16, 0.79, 0.81), (8, 64, 0.62, 0.64), (8, 384, 0.19, 0.22)],
)
def test_the_limit_means_the_same_at_any_fair_share(k: int, experts: int, below: float, above: float) -> None:
    for share, fires in ((below, False), (above, True)):
        seen = shaped(one(share * experts / k, experts), 400_000, k)
        assert [f.experts for f in run(OVER, seen)[1]] == [[3]] * fires


def test_two_experts_with_most_of_the_tokens_each_at_2_of_8() -> None:
    rho = [0.88 * 4, 0.88 * 4, *[(8 - 2 * 0.88 * 4) / 6] * 6]
    _, (found,) = run(OVER, shaped(rho, TOKENS, 2))
    assert (found.severity, found.cause, found.experts) == ("warning", overloaded_experts.OVERLOADED, [0, 1])
    assert (found.limit, found.limit_name) == (12, "overloaded-experts.overload_odds")


def test_all_but_one_expert_for_every_token_is_no_overload() -> None:
    """At 15 of 16 the fair share is 94 %: nobody is given rather than chosen."""
    assert run(OVER, shaped([1.0] * 8 + [1.04] * 4 + [0.96] * 4, 4 * TOKENS, 15))[1] == []


@pytest.mark.parametrize(("limit", "fires"), [(2.9, True), (3.3, False)])
def test_the_former_limit_in_fair_shares_still_counts_where_it_is_set(limit: float, fires: bool) -> None:
    seen = shaped(one(3.2), 5 * TOKENS, K)
    found = run(OVER, seen, limits={"overload_share": limit})[1]
    assert [(f.limit, f.limit_name) for f in found] == [(limit, "overloaded-experts.overload_share")] * fires
    assert run(OVER, seen, limits={"overload_share": 0})[1] == run(OVER, seen)[1]
    with pytest.raises(OptionError, match=r"overload_share cannot be 0.5.*more than one fair share.*overload_odds"):
        resolve_limits({OVER: {"overload_share": 0.5}})


@pytest.mark.parametrize(("share", "severity"), [(0.99, "error"), (0.78, None)])
def test_nearly_every_token_of_every_source(share: float, severity: str | None) -> None:
    _, findings = run(OVER, shaped(one(share * EXPERTS / K), TOKENS, K))
    assert [f.severity for f in findings] == [severity] * bool(severity)
    for found in findings:
        assert (found.cause, found.experts, found.limit) == (overloaded_experts.ALWAYS, [3], 0.9)
        assert 0.9 < found.measured < share


def test_one_source_that_goes_elsewhere_makes_it_a_warning() -> None:
    seen = shaped(one(0.97 * EXPERTS / K), 5 * TOKENS, K)
    busy = seen.activations.load
    counts = dict(busy.by_source)
    counts["0"] = [n if e != 3 else int(0.8 * TOKENS) for e, n in enumerate(counts["0"])]
    partial = busy.model_copy(update={"by_source": counts})
    shown = seen.activations.model_copy(update={"load": partial})
    _, (found,) = run(OVER, seen.model_copy(update={"activations": shown}))
    assert (found.severity, found.cause, found.limit) == ("warning", overloaded_experts.OVERLOADED, 12)
    assert "% of the tokens" in found.message


def test_too_few_tokens_for_an_overload() -> None:
    checks, findings = run(OVER, shaped(one(EXPERTS / K), 100, K))
    assert findings == []
    assert checks[0].verdict == "skipped"
    assert checks[0].reason.startswith("too few tokens: 100 are worth")


def test_a_damaged_table_that_counts_tokens_twice_is_no_more_than_all_of_them() -> None:
    counts = [TOKENS * K] + [0] * (EXPERTS - 1)
    seen = hashed(load=load(counts, by_source=dict.fromkeys(SOURCES, counts)))
    _, (found,) = run(OVER, seen)
    assert (found.severity, found.experts) == ("error", [0])
    assert found.measured <= 1


def test_effects() -> None:
    hits = [100, 250, 500, 5]
    sample = Sample(1000, hits, [(1000, hits)], 0.25, [3.0, 7.0, 9.0, None])
    carried = sorted(
        1 + (effect - 1) * (0.0025 * 0.9975 / (p * (1 - p))) ** (1 / 3) for effect, p in ((3, 0.1), (7, 0.25), (9, 0.5))
    )
    assert sample.usual_effect(0.0025) == pytest.approx(carried[1])
    assert sample.effect(3, 0.0025) == pytest.approx(carried[1])
    assert sample.effect(2, 0.0025) == 9
    assert Sample(1000, hits, [], 0.25, [None] * 4).effect(0, 0.1) == UNMEASURED_EFFECT
    assert Sample(1000, hits, [], 0.25, [0.2] * 4).effect(0, 0.1) == 1
    assert load_sample.UNMEASURED_EFFECT == 10


def test_a_saved_result_without_effects_is_judged_with_the_usual_one() -> None:
    seen = shaped(one(0), 60_000, K)
    old = Load.model_validate(seen.activations.load.model_dump(exclude={"design_effect"}))
    shown = seen.activations.model_copy(update={"load": old})
    _, (found,) = run(DEAD, seen.model_copy(update={"activations": shown}))
    assert found.measured == pytest.approx((1 - (0.01 / EXPERTS) ** (10 / 60_000)) / (K / EXPERTS), rel=1e-3)


def test_healthy_experts_at_the_limit_are_accused_less_often_than_the_error_allows() -> None:
    """200 models of 16 experts in 48 documents; four experts have exactly the share that is tested.

    Documents differ as measured on trained checkpoints: DEFF about 8 at the fair share and 2.7 at a hundredth.
    """
    dice = np.random.default_rng(0)
    fair = K / EXPERTS
    sources = np.arange(48) % 8
    cluster = assign(torch.tensor(sources))
    wrong = 0
    for _ in range(200):
        size = dice.integers(300, 512, 48)
        tokens = torch.zeros(CLUSTERS, dtype=torch.int64)
        tokens[cluster] = torch.tensor(size)
        counts = torch.zeros(CLUSTERS, EXPERTS, dtype=torch.int64)
        for e in range(EXPERTS):
            rare = e < 4
            share, icc = (fair / 100, 1.7 / 400) if rare else (fair * 1.33, 7 / 400)
            chance = dice.beta(share * (1 / icc - 1), (1 - share) * (1 / icc - 1), 48)
            counts[cluster, e] = torch.tensor(dice.binomial(size, chance))
        total = int(tokens.sum())
        names = {str(s): counts[s::8].sum(dim=0).tolist() for s in range(8)}
        sizes = {str(s): int(tokens[s::8].sum()) for s in range(8)}
        effects = design_effects(counts, tokens, 8)
        seen = load(counts.sum(dim=0).tolist(), by_source=names, source_tokens=sizes, design_effect=effects)
        wrong += bool(run(DEAD, learned(load=seen, tokens=total))[1])
    assert wrong <= 2
