"""flat-scores fires on routers that prefer nobody, and only on those."""

import math

import pytest

from moeprobe.detectors import flatness

from .synthetic import EXPERTS, around, bias, hashed, learned, logits, magnitudes, problems, run, selection

NAME = "flat-scores"


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "sqrtsoftplus", None])
def test_a_healthy_router_is_clean(function: str | None) -> None:
    checks, findings = run(NAME, learned(function=function))
    assert findings == []
    assert checks[0].verdict == "clean"


@pytest.mark.parametrize(
    ("gate_facts", "severity", "cause", "experts"),
    [
        ({"zero_rows": list(range(EXPERTS))}, "error", flatness.TINY_WEIGHTS, []),
        ({"zero_rows": [1, 5]}, "error", flatness.TINY_WEIGHTS, [1, 5]),
        ({"zero_rows": [5]}, "warning", flatness.TINY_WEIGHTS, [5]),
        ({"identical_rows": [(1, 2), (1, 9)]}, "error", flatness.EQUAL_ROWS, [1, 2, 9]),
    ],
)
def test_weights_alone_are_enough(gate_facts: dict, severity: str, cause: str, experts: list[int]) -> None:
    for weights_only in (True, False):
        checks, findings = run(NAME, learned(gate_facts=gate_facts, weights_only=weights_only))
        assert problems(findings) == [(severity, cause)]
        assert findings[0].experts == experts
        assert checks[0].verdict == "finding"


@pytest.mark.parametrize(("directions", "found"), [(1, True), (3, True), (4, False), (15, False), (None, False)])
def test_rows_that_differ_in_few_directions(directions: int | None, found: bool) -> None:
    """A quarter of the 15 that 16 rows can have is 3.75."""
    for weights_only in (True, False):
        _, findings = run(NAME, learned(gate_facts={"directions": directions}, weights_only=weights_only))
        assert problems(findings) == ([("error", flatness.LOW_RANK)] if found else [])


def test_fixed_columns_beyond_the_experts_may_be_zero() -> None:
    facts = {"experts": EXPERTS - 1}
    assert run(NAME, learned(facts=facts, gate_facts={"zero_rows": [EXPERTS - 1]}))[1] == []


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("std", {"error": math.nextafter(0.01, 0), "warning": 0.01, None: 0.05}),
        ("signal_to_rounding", {"error": math.nextafter(8, 0), "warning": 8.0, None: 32.0}),
    ],
)
def test_small_is_bad_exactly_below_the_limit(field: str, values: dict) -> None:
    for severity, value in values.items():
        shown = logits(std=value) if field == "std" else logits(**{field: value})
        _, findings = run(NAME, learned(logits=shown))
        assert [found.severity for found in findings] == ([severity] if severity else [])
        if severity:
            assert findings[0].measured == value
            assert findings[0].limit_name == f"flat-scores.{field.split('_')[0]}_{severity}"


@pytest.mark.parametrize(
    ("ties", "severities"), [(0.1, ["error"]), (0.0999, ["warning"]), (0.01, ["warning"]), (0.0099, [])]
)
def test_ties(ties: float, severities: list[str]) -> None:
    _, findings = run(NAME, learned(selection=selection(ties=ties)))
    assert [found.severity for found in findings] == severities


@pytest.mark.parametrize(
    ("modal", "share", "severities"),
    [
        (0.9, 0.7, ["error"]),
        (0.899, 0.7, []),
        (0.55, 0.7, []),
        (0.5, 0.0999, ["warning"]),
        (0.5, 0.1, []),
        (0.499, 0.01, []),
        (0.55, None, []),
    ],
)
def test_one_set_for_all_tokens(modal: float, share: float | None, severities: list[str]) -> None:
    router = learned(selection=selection(modal=modal), logits=logits(token_share=share))
    assert [found.severity for found in run(NAME, router)[1]] == severities


@pytest.mark.parametrize(
    ("norm", "rms", "cause"),
    [
        (0.001, 1.0, flatness.TINY_WEIGHTS),
        (0.9, 0.005, flatness.COLLAPSED_INPUT),
        (0.9, 1.0, flatness.EQUAL_ROWS),
    ],
)
def test_the_cause_of_flat_logits_is_read_off_the_sizes(norm: float, rms: float, cause: str) -> None:
    router = learned(
        gate_facts={"row_norms": [norm] * EXPERTS},
        logits=logits(std=min(norm * rms, 0.004)),
        magnitudes=magnitudes(input_rms=rms),
    )
    assert problems(run(NAME, router)[1]) == [("error", cause)]


def test_the_cause_of_ties() -> None:
    tied = selection(ties=0.5)
    saturated = learned(selection=tied, logits=logits(largest=17.0))
    assert problems(run(NAME, saturated)[1]) == [("error", flatness.SATURATED)]
    assert problems(run(NAME, learned(selection=tied))[1]) == [("error", flatness.LOST_TO_ROUNDING)]
    apart = learned(function="softmax", selection=tied, logits=logits(smallest=-60, largest=60))
    assert problems(run(NAME, apart)[1]) == [("error", flatness.SATURATED)]


def test_the_cause_of_one_set() -> None:
    one = selection(modal=0.95)
    collapsed = learned(selection=one, magnitudes=magnitudes(input_token_spread=0.01))
    assert problems(run(NAME, collapsed)[1]) == [("error", flatness.COLLAPSED_INPUT)]
    assert problems(run(NAME, learned(selection=one))[1]) == [("error", flatness.NOT_BY_TOKEN)]
    biased = learned(selection=selection(modal=0.95, bias_only=0.95))
    assert problems(run(NAME, biased)[1]) == [("error", flatness.BIAS_OUTWEIGHS)]


def test_one_fault_is_one_finding() -> None:
    zero = learned(
        gate_facts={"zero_rows": list(range(EXPERTS))},
        logits=logits(std=0.0, token_share=None),
        selection=selection(ties=1.0, modal=1.0),
    )
    assert len(run(NAME, zero)[1]) == 1


@pytest.mark.parametrize(
    ("router", "verdict", "reason"),
    [
        (learned(weights_only=True), "skipped", "needs a forward pass"),
        (learned(tokens=312), "skipped", "too few tokens: 312 of 1,000"),
        (learned(tokens=999), "skipped", "too few tokens: 999 of 1,000"),
        (learned(tokens=1000, distinct_ids=256), "clean", ""),
        (learned(distinct_ids=255), "skipped", "too few distinct token ids: 255 of 256"),
        (learned(logits=None), "skipped", "the family hands on no logits"),
        (learned(logits=logits(nonfinite=3)), "skipped", "logits are not finite (see sqrt-nan)"),
        (learned(facts={"verified": False, "reason": "it fired twice"}), "failed", "it fired twice"),
        (hashed(), "skipped", "a hash table chooses here, not the scores"),
    ],
)
def test_what_cannot_be_judged_says_why(router: object, verdict: str, reason: str) -> None:
    checks, findings = run(NAME, router)
    assert (checks[0].verdict, checks[0].reason, findings) == (verdict, reason, [])


def test_harmless_lookalikes() -> None:
    # Random initialisation, softmax over 384 experts (score spread below 1e-3), an offset of the bias.
    facts = {"experts": 384, "score_columns": 384, "selection_bias": bias(around(34.5, 0.14, 384))}
    wide = {"row_norms": [1.7] * 384, "logit_bound": None}
    for std in (0.3, 0.9, 1.7):
        assert run(NAME, learned(function="softmax", facts=facts, gate_facts=wide, logits=logits(std=std)))[1] == []


def test_choosing_every_expert_is_not_one_set() -> None:
    assert run(NAME, learned(facts={"top_k": EXPERTS}, selection=selection(modal=1.0)))[1] == []
