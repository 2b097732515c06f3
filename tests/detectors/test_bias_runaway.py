"""bias-runaway judges differences between biases, never their offset."""

import itertools
import math
import random

import pytest

from moeprobe.detectors import bias_reach
from moeprobe.detectors import bias_runaway as bias_file
from moeprobe.detectors.bias_balance import OPPOSED, UNBALANCES, UNRELATED
from moeprobe.detectors.bias_certificates import settle
from moeprobe.detectors.precision import step
from moeprobe.findings.evidence import BalanceLaw, Interval
from moeprobe.findings.router import Arithmetic, Groups

from .synthetic import (
    EXPERTS,
    TOKENS,
    K,
    around,
    bias,
    hashed,
    learned,
    load,
    logits,
    problems,
    run,
    selection,
)

NAME = "bias-runaway"


def with_bias(values: list[float], function: str = "sigmoid", dtype: str = "float32", **rest: object):
    facts = {"selection_bias": bias(values, dtype, dtype)} | rest.pop("facts", {})
    return learned(function=function, facts=facts, **rest)


@pytest.mark.parametrize(("offset", "spread"), [(34.5, 0.14), (-8.0, 0.2), (5.0, 0.4), (0.0, 0.5)])
@pytest.mark.parametrize("function", ["sigmoid", "softmax", "sqrtsoftplus"])
def test_an_offset_is_harmless(offset: float, spread: float, function: str) -> None:
    checks, findings = run(NAME, with_bias(around(offset, spread), function))
    assert problems(findings) == []
    assert checks[0].verdict == "clean"
    assert [found.cause for found in findings] == ([bias_file.OFFSET] if offset else [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite(value: float) -> None:
    values = around(0, 0.2)
    values[6] = value
    for weights_only in (True, False):
        _, findings = run(NAME, with_bias(values, weights_only=weights_only))
        assert problems(findings) == [("error", bias_file.NONFINITE)]
        assert findings[0].experts == [6]


def test_the_step_of_16_bit_numbers() -> None:
    assert step("bfloat16", 7.0) == 0.03125
    assert step("torch.bfloat16", 34.5) == 0.25
    assert step("float16", 1.0) == 2.0**-10
    assert step("float16", 0.0) == 2.0**-24


@pytest.mark.parametrize(
    ("stored", "held", "cause"),
    [
        ("bfloat16", "float32", bias_file.STORED_ROUNDED),
        ("bfloat16", "bfloat16", bias_file.STORED_ROUNDED),
        ("float32", "bfloat16", bias_file.LOADED_ROUNDED),
        (None, "float16", bias_file.LOADED_ROUNDED),
    ],
)
def test_quantised(stored: str | None, held: str, cause: str) -> None:
    offset = 34.5 if "bfloat16" in (stored, held) else 300.0
    _, findings = run(NAME, learned(facts={"selection_bias": bias(around(offset, 0.14), held, stored)}))
    assert problems(findings) == [("error", cause)]


def test_quantised_exactly_beyond_a_quarter_of_the_interquartile_range() -> None:
    # Quartiles of an even spread s are s / 2 apart; around 7 the step of bfloat16 is 1 / 32.
    at_limit = 2 * 4 / 32
    coarse = run(NAME, with_bias(around(7, at_limit * 0.999), dtype="bfloat16"))[1]
    assert problems(coarse) == [("error", bias_file.STORED_ROUNDED)]
    fine = run(NAME, with_bias(around(7, at_limit * 1.001), dtype="bfloat16"))[1]
    assert problems(fine) == [("warning", bias_file.OFFSET_16BIT)]


def test_16_bits_without_an_offset_are_fine() -> None:
    assert run(NAME, with_bias(around(0, 0.2), dtype="bfloat16"))[1] == []


def test_an_offset_added_in_16_bits_is_a_warning() -> None:
    arithmetic = Arithmetic(product="bfloat16", score="bfloat16", selection="bfloat16", weights="bfloat16")
    _, findings = run(NAME, with_bias(around(34.5, 0.14), facts={"arithmetic": arithmetic}))
    assert problems(findings) == [("warning", bias_file.OFFSET_16BIT)]


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_a_runaway_expert_is_named(function: str) -> None:
    values = around(0, 0.2)
    values[5] += 10
    counts = [(TOKENS * K - TOKENS) // (EXPERTS - 1)] * EXPERTS
    counts[5] = TOKENS
    for weights_only in (True, False):
        seen = with_bias(
            values, function, weights_only=weights_only, **({} if weights_only else {"load": load(counts)})
        )
        _, findings = run(NAME, seen)
        assert problems(findings) == [("error", f"{bias_file.SETTLED} (always chosen)")]
        assert findings[0].experts == [5]


def test_the_certificate_begins_where_the_scores_end() -> None:
    values = [0.0] * EXPERTS
    values[0] = 1.0
    assert settle(with_bias(values, weights_only=True), 1000).always == []
    values[0] = math.nextafter(1.0, 2)
    assert settle(with_bias(values, weights_only=True), 1000).always == [0]
    values = [1.0] * EXPERTS
    values[3] = 0.0
    assert settle(with_bias(values, weights_only=True), 1000).never == []
    values[3] = -1e-9
    assert settle(with_bias(values, weights_only=True), 1000).never == [3]


def test_favourites_that_fill_every_slot_are_one_finding() -> None:
    values = around(0, 0.2)
    for e in range(K):
        values[e] += 10
    _, findings = run(NAME, with_bias(values, weights_only=True))
    assert [found.experts for found in findings] == [list(range(K))]


def test_certificates_agree_with_brute_force() -> None:
    dice = random.Random(0)
    for _ in range(300):
        values = [dice.choice([0, 0.4, 0.9, 1.1, 2.3, -1.2]) + dice.random() / 10 for _ in range(5)]
        seen = with_bias(values, facts={"experts": 5, "score_columns": 5, "top_k": 2}, weights_only=True)
        settled = settle(seen, 1000)
        # The extremes of the scores decide: an expert at its best against the others at their worst, and back.
        corners = list(itertools.product([0.0, 1.0], repeat=5))
        chosen = []
        for scores in corners:
            total = [s + b for s, b in zip(scores, values, strict=True)]
            chosen.append(set(sorted(range(5), key=lambda e: -total[e])[:2]))
        assert settled.never == [e for e in range(5) if not any(e in c for c in chosen)]
        assert settled.always == [e for e in range(5) if all(e in c for c in chosen)]


@pytest.mark.parametrize("rank", ["max", "top2-sum"])
@pytest.mark.parametrize("kept", [1, 2])
def test_certificates_with_groups_have_no_counterexample(rank: str, kept: int) -> None:
    dice = random.Random(0)
    groups = Groups(count=3, kept=kept, score=rank, fill="-inf")
    best, proofs = 1 if rank == "max" else 2, 0
    for _ in range(150):
        values = [dice.choice([0, 0.4, 1.1, 2.3, -1.2, 4.0]) + dice.random() / 10 for _ in range(6)]
        facts = {"experts": 6, "score_columns": 6, "top_k": 2, "groups": groups}
        settled = settle(with_bias(values, facts=facts, weights_only=True), 1000)
        proofs += len(settled.never) + len(settled.always)
        inside = [[dice.random() for _ in range(6)] for _ in range(60)]
        for scores in [*itertools.product([0.0, 1.0], repeat=6), *inside]:
            total = [s + b for s, b in zip(scores, values, strict=True)]
            ranks = [sum(sorted(total[2 * g : 2 * g + 2])[-best:]) for g in range(3)]
            eligible = sorted(range(3), key=lambda g: -ranks[g])[:kept]
            chosen = sorted((e for e in range(6) if e // 2 in eligible), key=lambda e: -total[e])[:2]
            assert not set(settled.never) & set(chosen)
            assert set(settled.always) <= set(chosen)
    assert proofs > 100


def test_a_runaway_in_a_group() -> None:
    groups = Groups(count=4, kept=2, score="top2-sum", fill="-inf")
    values = [0.0] * EXPERTS
    values[9] = 10.0
    assert settle(with_bias(values, facts={"groups": groups}, weights_only=True), 1000).always == [9]
    values[9] = -10.0
    size = EXPERTS // 4
    k = min(K, 2 * size - 1)
    settled = settle(with_bias(values, facts={"groups": groups, "top_k": k}, weights_only=True), 1000)
    assert (settled.never, settled.always) == ([9], [])


def test_groups_filled_with_zero() -> None:
    groups = Groups(count=4, kept=2, score="max", fill="0")
    _, findings = run(NAME, with_bias(around(-8, 0.2), facts={"groups": groups}, weights_only=True))
    assert problems(findings) == [("error", bias_file.LEFT_OUT_WIN)]
    assert problems(run(NAME, with_bias(around(5, 0.4), facts={"groups": groups}))[1]) == []


def test_skip_experts_are_exempt() -> None:
    values = [*around(0, 0.2, EXPERTS - 1), -3.0]
    facts = {"experts": EXPERTS - 1}
    checks, findings = run(NAME, with_bias(values, facts=facts, load=load([2000] * (EXPERTS - 1) + [0])))
    assert findings == []
    assert "settled by design: column 15" in checks[0].reason


def test_unbounded_scores_use_the_weights_and_then_the_probe() -> None:
    values = around(0, 0.2)
    values[2] += 5
    counts = [1500] * EXPERTS
    counts[2] = TOKENS
    # sqrt(softplus(20)) is 4.5, sqrt(softplus(40)) is 6.3, sqrt(softplus(6)) is 2.5.
    proved = with_bias(values, "sqrtsoftplus", gate_facts={"logit_bound": [20.0] * EXPERTS}, load=load(counts))
    assert problems(run(NAME, proved)[1]) == [("error", f"{bias_file.SETTLED} (always chosen)")]
    observed = with_bias(values, "sqrtsoftplus", load=load(counts))
    assert problems(run(NAME, observed)[1]) == [("error", f"{bias_file.SETTLED_ON_PROBE} (always chosen)")]
    few = with_bias(values, "sqrtsoftplus", load=load(counts), tokens=999)
    assert run(NAME, few)[1] == []
    assert run(NAME, with_bias(values, "sqrtsoftplus", weights_only=True))[1] == []


def test_a_load_that_contradicts_the_certificate_is_a_failure_not_a_guess() -> None:
    values = around(0, 0.2)
    values[5] += 10
    checks, findings = run(NAME, with_bias(values))
    assert findings == []
    assert checks[0].verdict == "failed"
    assert "expert 5 contradicts the bias" in checks[0].reason


@pytest.mark.parametrize(
    ("share", "severities"), [(0.9, ["error"]), (0.899, ["warning"]), (0.5, ["warning"]), (0.499, [])]
)
def test_share_decided_by_the_bias(share: float, severities: list[str]) -> None:
    _, findings = run(NAME, learned(selection=selection(bias_only=share)))
    assert [found.severity for found in findings] == severities
    assert {found.cause for found in findings} <= {bias_file.DECIDES}


@pytest.mark.parametrize(
    ("biased", "unbiased", "fires"),
    [
        ((1.6, 1.2, 2.0), (1.0, 0.9, 1.1), True),
        ((1.5, 1.2, 2.0), (1.0, 0.9, 1.1), False),
        ((1.6, 1.1, 2.0), (1.0, 0.9, 1.1), False),
        ((1.6, None, None), (1.0, 0.9, 1.1), False),
    ],
)
def test_imbalance_with_the_bias(biased: tuple, unbiased: tuple, fires: bool) -> None:
    first, second = (Interval(value=v, low=low, high=high) for v, low, high in (biased, unbiased))
    _, findings = run(NAME, learned(load=load(max_vio=first, unbiased_max_vio=second)))
    assert problems(findings) == ([("warning", UNBALANCES)] if fires else [])
    alone = load(max_vio=first, unbiased_max_vio=second, source_tokens={"python": TOKENS})
    assert run(NAME, learned(load=alone))[1] == []


def test_a_lost_bias() -> None:
    zero = [0.0] * EXPERTS
    _, findings = run(NAME, with_bias(zero, weights_only=True), learned(1, weights_only=True))
    assert problems(findings) == [("warning", bias_file.CONSTANT_HERE)]
    both = [learned(i, facts={"selection_bias": bias(zero)}) for i in range(3)]
    checks, findings = run(NAME, *both)
    assert problems(findings) == [("error", bias_file.CONSTANT)]
    assert [found.follows for found in findings] == [None, both[0].router.path, both[0].router.path]
    assert [check.verdict for check in checks] == ["finding"] * 3


@pytest.mark.parametrize(
    ("seen", "verdict", "reason"),
    [
        (learned(facts={"selection_bias": None}), "skipped", "no selection bias"),
        (hashed(), "skipped", "a hash table chooses here, without a bias"),
        (learned(weights_only=True), "skipped", "needs a forward pass"),
        (learned(tokens=312), "skipped", "too few tokens: 312 of 1,000"),
        (learned(facts={"verified": False, "reason": "it fired twice"}), "failed", "it fired twice"),
    ],
)
def test_what_cannot_be_judged_says_why(seen: object, verdict: str, reason: str) -> None:
    checks, findings = run(NAME, seen)
    assert (checks[0].verdict, checks[0].reason, findings) == (verdict, reason, [])


def test_flat_scores_in_the_observed_range_do_not_hide_in_it() -> None:
    # With all logits equal the observed range has no width, and any bias settles everything.
    seen = learned(
        function="sqrtsoftplus",
        logits=logits(std=0.0, smallest=0.0, largest=0.0),
        load=load([0] * (EXPERTS - K) + [TOKENS] * K),
    )
    assert problems(run(NAME, seen)[1]) == [("error", f"{bias_file.SETTLED_ON_PROBE} (always chosen)")]


@pytest.mark.parametrize(
    ("correlation", "found"),
    [
        (0.9, None),
        (0.62, None),
        (0.59, "info"),
        (0.0, "info"),
        (-0.59, "info"),
        (-0.63, "warning"),
        (-1.0, "warning"),
    ],
)
def test_a_bias_that_does_not_follow_the_balance_law(correlation: float, found: str | None) -> None:
    """With 16 experts, 99 % of chance correlations lie within tanh(2.576 / sqrt(13)) = 0.613."""
    seen = with_bias(around(0, 0.3), balance_law=BalanceLaw(correlation=correlation, slope=1.0))
    said = [f for f in run(NAME, seen)[1] if f.cause in (OPPOSED, UNRELATED)]
    assert [f.severity for f in said] == ([found] if found else [])


def test_a_bias_that_loading_rounds_harmlessly_is_mentioned() -> None:
    values = around(0, 0.2)
    cast = learned(facts={"selection_bias": bias(values, "bfloat16", "float32")})
    checks, findings = run(NAME, cast)
    assert [(found.severity, found.cause) for found in findings] == [("info", bias_file.ROUNDED_ON_LOAD)]
    assert checks[0].verdict == "clean"


def test_a_bias_that_no_training_reaches() -> None:
    values = [3e38, 1e-41] * (EXPERTS // 2)
    _, found = run("bias-runaway", learned(0, None, facts={"selection_bias": bias(values)}))
    assert [(one.severity, one.cause, one.experts) for one in found] == [
        ("error", bias_reach.BEYOND, list(range(0, EXPERTS, 2)))
    ]
    assert "denormal" in found[0].message
    apart = [5.0] * (EXPERTS - 1) + [5.0 + 9_999]
    _, kept = run("bias-runaway", learned(0, None, facts={"selection_bias": bias(apart)}))
    assert bias_reach.BEYOND not in {one.cause for one in kept}
    offset = [1e5 + 0.01 * expert for expert in range(EXPERTS)]
    assert not problems(run("bias-runaway", learned(0, None, facts={"selection_bias": bias(offset)}))[1])
