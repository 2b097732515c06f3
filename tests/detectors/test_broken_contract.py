"""MP702: every clause from both sides, and the families that have no known rule."""

from typing import Any

import pytest

from moeprobe.detectors import broken_contract as bc
from moeprobe.detectors import scale_mismatch
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.router import Declared, Groups, Reference

from .synthetic import TOKENS, contract, evidence, hashed, judged, learned, logits, problems, quantiles, run, weights

NAME = "broken-contract"
UNDECLARED = Declared()


def found(*routers: RouterEvidence, **limits: Any) -> list[tuple[str, str, int | None]]:
    return [(f.severity, f.cause, f.layer) for f in run(NAME, *routers, **limits)[1]]


def undeclared(layer: int = 0, facts: dict[str, Any] | None = None, **shown: Any) -> RouterEvidence:
    return learned(layer, facts={"declared": UNDECLARED, **(facts or {})}, **shown)


KIN = [undeclared(i) for i in (1, 2, 3)]


@pytest.mark.parametrize(("tokens", "bad"), [(8, False), (9, True), (TOKENS, True)])
@pytest.mark.parametrize(
    ("field", "cause"),
    [
        ("not_returned", bc.FOREIGN_EXPERTS),
        ("other_weights", bc.FOREIGN_WEIGHTS),
        ("other_choice", bc.OTHER_CHOICE),
        ("other_weighting", bc.UNKNOWN_WEIGHTS),
    ],
)
def test_shares(tokens: int, bad: bool, field: str, cause: str) -> None:
    assert found(learned(contract=contract(**{field: tokens}))) == ([("error", cause, 0)] if bad else [])


def test_the_cause_of_other_weights() -> None:
    assert found(learned(contract=contract(other_weighting=4000, other_weighting_biased=0))) == [
        ("error", bc.BIASED_WEIGHTS, 0)
    ]
    # It needs no declaration and no kin.
    alone = undeclared(contract=contract(other_weighting=4000, other_weighting_biased=0))
    assert found(alone) == [("error", bc.BIASED_WEIGHTS, 0)]
    assert found(undeclared(contract=contract(other_weighting=4000))) == []


def test_the_cause_of_another_choice() -> None:
    ignored = contract(other_choice=3000, other_choice_unbiased=0)
    assert found(undeclared(contract=ignored)) == [("warning", bc.BIAS_UNUSED, 0)]
    assert found(undeclared(contract=ignored), *KIN) == [("error", bc.BIAS_UNUSED, 0)]
    groups = Groups(count=4, kept=2, score="top2-sum", fill="-inf")
    grouped = contract(other_choice=3000, other_choice_unbiased=3000, outside_groups=2000)
    assert found(undeclared(facts={"groups": groups}, contract=grouped)) == [("error", bc.OUTSIDE_GROUPS, 0)]
    zero = groups.model_copy(update={"fill": "0"})
    won = contract(outside_groups=2000)
    assert found(undeclared(facts={"groups": zero}, contract=won)) == [("warning", bc.ZERO_MASK, 0)]
    assert found(undeclared(facts={"groups": zero}, contract=contract(outside_groups=0))) == []


SIGMOID = Reference(
    name="DeepseekV3TopkRouter",
    explaining=["sigmoid"],
    renormalised=True,
    scaling_factor=2.5,
    selection_agreement=1.0,
    biased_choice=True,
)


def test_the_rule_of_the_class() -> None:
    """It needs no other layer, and the config's own word counts more."""
    softmax = {"reference": SIGMOID, "score_function": "softmax", "explaining": ["softmax"]}
    assert found(undeclared(facts={"reference": SIGMOID})) == []
    assert found(undeclared(facts=softmax)) == [("error", bc.OTHER_FUNCTION, 0)]
    assert found(undeclared(facts=softmax | {"reference": None})) == []
    assert found(learned(0, "softmax", facts={"reference": SIGMOID})) == []
    both = softmax | {"reference": SIGMOID.model_copy(update={"explaining": ["sigmoid", "softmax"]})}
    assert found(undeclared(facts=both)) == []
    other = contract(other_choice=3000)
    assert found(undeclared(facts={"reference": SIGMOID}, contract=other)) == [("error", bc.OTHER_CHOICE, 0)]
    vague = SIGMOID.model_copy(update={"selection_agreement": 0.9})
    assert found(undeclared(facts={"reference": vague}, contract=other)) == []
    ignored = contract(other_choice=3000, other_choice_unbiased=0)
    assert found(undeclared(facts={"reference": SIGMOID}, contract=ignored)) == [("error", bc.BIAS_UNUSED, 0)]


@pytest.mark.parametrize(("reference", "severity"), [(SIGMOID, "error"), (None, "warning")])
@pytest.mark.parametrize(("tokens", "bad"), [(8, False), (9, True)])
def test_indices_of_one_score_and_weights_of_another(
    tokens: int, bad: bool, reference: Reference | None, severity: str
) -> None:
    mixed = undeclared(
        facts={"reference": reference, "choosing": ["softmax"]},
        contract=contract(other_choice=tokens, other_choice_unbiased=tokens),
    )
    assert found(mixed) == ([(severity, bc.MIXED_SCORES, 0)] if bad else [])


def test_one_layer_without_the_groups_of_the_others() -> None:
    groups = Groups(count=4, kept=2, score="top2-sum", fill="-inf")
    kin = [undeclared(i, facts={"groups": groups}, contract=contract(outside_groups=0)) for i in (1, 2, 3)]
    assert found(undeclared(0), *kin) == [("error", bc.OUTSIDE_GROUPS, 0)]
    assert found(undeclared(0), kin[0]) == []


def test_the_rule_is_not_known() -> None:
    bare = {"score_function": None, "explaining": [], "fit_error": None, "declared": UNDECLARED}
    unknown = learned(0, None, facts=bare, contract=contract(chosen=0, weighed=0, other_choice=None))
    checks, findings = run(NAME, unknown)
    assert (checks[0].verdict, checks[0].reason) == ("skipped", "the rule of this family is not known")
    assert findings == []
    assert found(unknown, *KIN) == [("error", bc.UNKNOWN_WEIGHTS, 0)]
    other_class = [k.model_copy(update={"router": k.router.model_copy(update={"module": "Other"})}) for k in KIN]
    assert found(unknown, *other_class) == []
    declared = learned(0, None, facts={**bare, "declared": Declared(score_function="sigmoid")}, contract=contract())
    assert found(declared) == [("error", bc.UNKNOWN_WEIGHTS, 0)]
    # A name that is no score function promises nothing.
    odd = learned(0, None, facts={**bare, "declared": Declared(score_function="noaux")}, contract=contract())
    assert found(odd) == []
    nan = learned(0, None, facts={**bare, "declared": Declared(score_function="sigmoid")}, logits=logits(nonfinite=9))
    assert found(nan) == []


def test_an_unknown_selection_rule_is_skipped() -> None:
    everywhere = [undeclared(i, contract=contract(other_choice=500, other_choice_unbiased=700)) for i in range(3)]
    checks, findings = run(NAME, *everywhere)
    assert findings == []
    assert {c.reason for c in checks} == {"the selection rule of this family is not known"}
    assert found(everywhere[0], *KIN) == [("error", bc.OTHER_CHOICE, 0)]


def test_another_score_function() -> None:
    softmax = {"score_function": "softmax", "explaining": ["softmax"]}
    assert found(learned(facts=softmax)) == [("error", bc.OTHER_FUNCTION, 0)]
    assert found(undeclared(facts=softmax), *KIN) == [("error", bc.OTHER_FUNCTION, 0)]
    assert found(undeclared(facts=softmax), KIN[0]) == []  # Who of two is right?
    both = {"score_function": "softmax", "explaining": ["softmax", "sigmoid"]}
    assert found(undeclared(facts=both), *KIN) == []


def test_the_rule_of_kin_is_no_proof_without_departures() -> None:
    # Its own fit failed (a few NaN, say), the rule was taken from another layer, and it holds.
    assert found(undeclared(facts={"explaining": [], "fit_error": None}), *KIN) == []


def test_constant_top_1_weights() -> None:
    one = {"top_k": 1}
    constant = weights(sum=quantiles(1.0), smallest_sum=1.0, largest_sum=1.0)
    assert found(learned(facts=one, weights=constant)) == [("warning", bc.CONSTANT, 0)]
    varied = weights(smallest_sum=0.998, largest_sum=1.0)
    assert found(learned(facts=one, weights=varied)) == []
    assert found(learned(facts={**one, "renormalised": False}, weights=constant)) == []
    assert found(learned(weights=constant)) == []
    # Without logits no rule is fitted, and with factors of the experts the sums differ; the weight is as constant.
    unfitted = learned(facts={**one, "renormalised": None}, weights=constant, logits=None)
    assert found(unfitted) == [("warning", bc.CONSTANT, 0)]
    assert found(learned(facts={**one, "renormalised": None}, weights=varied)) == []
    scaled = weights(smallest_sum=0.5, largest_sum=2.0)
    assert found(learned(facts={**one, "expert_scale": "scale"}, weights=scaled)) == [("warning", bc.CONSTANT, 0)]
    assert found(learned(facts={**one, "score_columns": 1}, weights=constant)) == []


@pytest.mark.parametrize(
    ("changed", "fires"),
    [
        ({"declared": Declared(renormalised=True)}, True),
        ({"declared": Declared(renormalised=True), "top_k": 2}, False),
        ({"declared": Declared(renormalised=True), "score_columns": 1}, False),
        ({"declared": Declared(renormalised=True), "kind": "hash"}, False),
        ({"declared": Declared(renormalised=False)}, False),  # Llama 4 and Switch: the score itself is the weight
        ({"declared": Declared()}, False),
        ({"declared": Declared(renormalised=True), "renormalised": False}, False),
        ({"declared": Declared(), "renormalised": True}, True),
    ],
)
def test_top_1_where_nothing_was_recorded(changed: dict, fires: bool) -> None:
    """What was measured before a forward pass failed counts more than what the config says."""
    facts = {"top_k": 1, "renormalised": None, "selection_agreement": None, **changed}
    seen = learned(facts=facts, weights_only=True)
    assert found(seen) == ([("warning", bc.CONSTANT, 0)] if fires else [])


def test_an_unverified_router_is_failed_unless_it_is_wrong() -> None:
    fused = learned(facts={"verified": False, "reason": "the experts module was never called"})
    checks, findings = run(NAME, fused)
    assert (checks[0].verdict, checks[0].reason, findings) == ("failed", "the experts module was never called", [])
    reason = "the experts received something else than the router returned"
    shifted = learned(facts={"verified": False, "reason": reason}, contract=contract(not_returned=TOKENS))
    checks, _ = run(NAME, shifted)
    assert checks[0].verdict == "finding"
    harmless = learned(facts={"verified": False, "reason": reason})
    assert run(NAME, harmless)[0][0].verdict == "failed"


def test_hash_layers_are_judged_by_their_weights_only() -> None:
    assert found(hashed()) == []
    other = contract(chosen=0, other_choice=None, other_weighting=3000, other_weighting_biased=None)
    assert found(hashed(contract=other)) == [("error", bc.UNKNOWN_WEIGHTS, 0)]


def test_skipped() -> None:
    assert run(NAME, learned(weights_only=True))[0][0].reason == "needs a forward pass"
    assert run(NAME, learned(contract=None))[0][0].reason == "what ran was not compared with the rule"
    assert run(NAME, learned(logits=None))[0][0].reason == "the family hands on no logits"
    assert "too few tokens" in run(NAME, learned(contract=contract(executed=50)))[0][0].reason


def test_one_fault_of_code_is_one_problem() -> None:
    broken = contract(other_weighting=TOKENS, other_weighting_biased=0)
    sums = weights(promise_smallest=0.8, promise_largest=1.4)
    judgement = judged(evidence(*(learned(i, contract=broken, weights=sums) for i in range(3))))
    assert problems(judgement.findings)[0] == ("error", bc.BIASED_WEIGHTS)
    assert len(problems(judgement.findings)) == 1
    assert {f.cause for f in judgement.findings} == {bc.BIASED_WEIGHTS, scale_mismatch.UNEXPLAINED}


def test_rows_that_other_experts_executed() -> None:
    """The router itself did not verify, so nothing else is judged."""
    facts = {"verified": False, "misdispatched": True, "reason": "the experts executed other rows"}
    wrong = learned(facts=facts, contract=contract(ran=10_000, misplaced=10))
    assert found(wrong) == [("error", bc.FOREIGN_EXPERTS, 0)]
    assert found(learned(contract=contract(ran=10_000, misplaced=9))) == []


def test_a_router_that_is_gone_around() -> None:
    around = learned(facts={"verified": False, "bypassed": True, "reason": "never fired"}, weights_only=True)
    assert found(around, learned(1)) == [("warning", bc.BYPASSED, 0)]


def test_a_router_that_is_not_reached_is_skipped() -> None:
    checks, findings = run(NAME, learned(facts={"verified": False, "reached": False, "reason": "never reached"}))
    assert not findings
    assert (checks[0].verdict, checks[0].reason) == ("skipped", "never reached")
