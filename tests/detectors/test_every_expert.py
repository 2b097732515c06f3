"""Where every token uses every expert, or there is only one, no finding is made of it, and every reason is true."""

import pytest

from moeprobe.findings.evidence import RouterEvidence

from .synthetic import BFLOAT16, EXPERTS, bias, experts, gate, learned, load, logits, run, selection, shape

EVERY = "every token uses every expert"
CHOICE = f"{EVERY}, so there is no choice to judge"


def everything(**facts: object) -> RouterEvidence:
    """All of 16 experts are chosen: one set, that of the bias, for every token."""
    shown = {"selection": selection(modal=1.0, bias_only=1.0), "load": load([8192] * EXPERTS)}
    return learned(facts={"top_k": EXPERTS, "arithmetic": BFLOAT16} | facts, **shown)


def single() -> RouterEvidence:
    """One expert, whose one logit differs from no other and whose bias is that of every expert."""
    facts = {"experts": 1, "score_columns": 1, "top_k": 1, "arithmetic": BFLOAT16, "selection_bias": bias([0.1])}
    weights = gate(row_norms=[1.0], shape=None, nearest_row=None, row_cosine=None, logit_bound=[4.0])
    shown = {"logits": logits(0.0), "selection": selection(modal=1.0, bias_only=1.0), "load": load([8192])}
    found = learned(facts=facts, **shown)
    return found.model_copy(update={"weights": weights, "experts": experts(nearest=[], cosine=[], coupling=None)})


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        ("dead-experts", EVERY),
        ("overloaded-experts", EVERY),
        ("bias-runaway", CHOICE),
        ("low-precision-routing", CHOICE),
        ("permuted-experts", CHOICE),
    ],
)
def test_every_expert_is_chosen(detector: str, reason: str) -> None:
    checks, findings = run(detector, everything())
    assert findings == []
    assert [(check.verdict, check.reason) for check in checks] == [("skipped", reason)]


def test_what_is_judged_where_every_expert_is_chosen() -> None:
    (check,), findings = run("flat-scores", everything())
    assert (check.verdict, findings) == ("clean", [])
    assert check.reason == "every token uses every expert: only how their weights differ was judged"
    flat = learned(facts={"top_k": EXPERTS}, logits=logits(0.001))
    assert [found.severity for found in run("flat-scores", flat)[1]] == ["error"]
    assert run("broken-contract", everything())[1] == []


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        ("flat-scores", "there is a single expert, so there is no choice to judge"),
        ("bias-runaway", "there is a single expert, so there is no choice to judge"),
        ("low-precision-routing", "there is a single expert, so there is no choice to judge"),
        ("permuted-experts", "there is a single expert, so there is no choice to judge"),
        ("duplicate-experts", "there is a single expert, and no other to compare it with"),
        ("untrained-gate", "the gate is too small to tell: 1 x 64"),
        ("dead-experts", EVERY),
        ("overloaded-experts", EVERY),
    ],
)
def test_a_single_expert(detector: str, reason: str) -> None:
    checks, findings = run(detector, single())
    assert findings == []
    assert [(check.verdict, check.reason) for check in checks] == [("skipped", reason)]


def test_a_single_expert_may_still_be_broken() -> None:
    broken = single()
    assert broken.weights is not None
    weights = broken.weights.model_copy(update={"nonfinite_rows": [0]})
    (found,) = run("sqrt-nan", broken.model_copy(update={"weights": weights}))[1]
    assert found.experts == [0]


def test_two_gate_rows_are_too_few_to_look_random() -> None:
    facts = {"experts": 2, "score_columns": 2, "top_k": 2}
    two = learned(facts=facts, gate_facts={"shape": None, "row_norms": [1.0, 1.0]})
    assert run("untrained-gate", two)[0][0].reason == "the gate is too small to tell: 2 x 64"
    small = learned(gate_facts={"shape": shape(rows=4, columns=32)})
    assert run("untrained-gate", small)[0][0].reason == "the gate is too small to tell: 4 x 32"


def test_beside_zero_experts_there_is_a_choice_and_nobody_to_draw() -> None:
    """All experts with parameters can be chosen at once, or columns without any instead."""
    router = learned(facts={"experts": 4, "top_k": 4})
    assert run("permuted-experts", router)[0][0].reason == (
        "4 of 4 experts are chosen, so there are no others to draw at random"
    )
