"""MP801 on facts: what differs before any token is read is the finding, wherever it is and whatever the tokens show."""

import random
from typing import Any

import pytest

from moeprobe.detectors import drift_facts, routing_drift
from moeprobe.findings.drift import Drift, FactChange, LostExpert, Pruning, Receiver, Renumbering
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.finding import Finding

from .drifted import BASE, compared, drifted, interval
from .synthetic import EXPERTS, judged

FAR: dict[str, Any] = {"firm_overlap": interval(0.3), "same_sets": interval(0.3), "overlap": interval(0.4)}
DEPTH = 5


def run(*routers: RouterEvidence, others: bool | None = True) -> list[Finding]:
    seen = compared(*routers)
    base = BASE.model_copy(update={"others_same": others})
    return judged(seen.model_copy(update={"base": base}), "routing-drift").findings


def at(layer: int, **facts: Any) -> list[RouterEvidence]:
    """The base's routing up to ``layer``, which has the facts; those behind it drift with their inputs."""
    still = {"overlap": interval(1, 0), "same_sets": interval(1, 0), "firm_overlap": interval(1, 0)}
    same = {"gate_same": True, "bias_same": True, "experts_changed": 0, "weight_l1": interval(0, 0)}
    behind = same | FAR | {"own_sets": interval(1, 0)}
    return [
        drifted(place, **(same | still if place < layer else same | facts if place == layer else behind))
        for place in range(DEPTH)
    ]


FACTS = [
    ("renormalisation", "on", "off", "norm_topk_prob"),
    ("scaling factor", "2.5", "1", "routed_scaling_factor"),
    ("score function", "sigmoid", "softmax", "scoring_func"),
    ("groups", "2 of 4 groups by the best member", "none", "n_group"),
    ("top-k", "8", "4", "num_experts_per_tok"),
    ("selection bias", "present", "none", "e_score_correction_bias"),
    ("output factor", "1", "2", "factor on the experts' output"),
    ("place of the bias", "scores", "logits", "added to"),
]


@pytest.mark.parametrize(("name", "base", "tuned", "key"), FACTS)
@pytest.mark.parametrize("own", [0.1, 1.0, None])
def test_a_fact_that_differs(name: str, base: str, tuned: str, key: str, own: float | None) -> None:
    layer = random.Random(f"{name}{own}").randrange(DEPTH - 1)
    change = [FactChange.model_validate({"name": name, "base": base, "tuned": tuned})]
    own_sets = None if own is None else interval(own, 0)
    found = run(*at(layer, facts=change, own_sets=own_sets, **FAR))
    assert (found[0].layer, found[0].severity) == (layer, "warning")
    assert found[0].cause == f"{drift_facts.RULE}: {name}"
    assert f"the {name} is {tuned}, and {base} in the base" in found[0].message
    assert key in found[0].remedy
    for one in found[1:]:
        assert (one.severity, one.cause, one.follows) == ("info", drift_facts.BEHIND, found[0].router)
        assert "something before this gate" not in one.remedy
        assert key in one.remedy


def test_one_config_is_one_finding() -> None:
    change = [FactChange(name="renormalisation", base="on", tuned="off")]
    found = run(*[drifted(layer, facts=change, **FAR) for layer in range(4)])
    assert [one.severity for one in found] == ["warning", "info", "info", "info"]


@pytest.mark.parametrize("own", [interval(0.3), None])
def test_the_bias_alone(own: Any) -> None:
    layer = random.Random(str(own)).randrange(DEPTH - 1)
    found = run(*at(layer, bias_same=False, own_sets=own, **FAR))
    assert (found[0].layer, found[0].severity, found[0].cause) == (layer, "warning", drift_facts.BIAS)
    assert "freeze it" in found[0].remedy
    assert {one.cause for one in found[1:]} <= {drift_facts.BEHIND}


def test_a_bias_that_moved_beside_trained_experts_names_both() -> None:
    found = run(*at(1, bias_same=False, experts_changed=7))
    behind = [one for one in found if one.cause == drift_facts.BEHIND]
    assert "the bias of layer 1 is not the base's, nor are 7 of its experts" in behind[0].message


def test_a_gate_that_moved_with_its_bias_is_the_gates_doing() -> None:
    (found,) = run(drifted(gate_same=False, bias_same=False, own_sets=interval(0.2), **FAR))
    assert found.cause == routing_drift.OWN


def test_a_gate_that_is_the_bases_never_chooses_otherwise_itself() -> None:
    (found,) = run(drifted(gate_same=True, bias_same=True, own_sets=interval(0.2), **FAR))
    assert found.cause == routing_drift.INHERITED


@pytest.mark.parametrize("others", [True, None, False])
def test_experts_alone(others: bool | None) -> None:
    layer = random.Random(str(others)).randrange(DEPTH - 1)
    found = run(*at(layer, experts_changed=3), others=others)
    told = [one for one in found if one.cause == drift_facts.EXPERTS]
    behind = [one for one in found if one.layer > layer]
    if others is False:
        assert not told
        assert {one.cause for one in behind} == {routing_drift.INHERITED}
    else:
        assert [(one.layer, one.severity, one.measured) for one in told] == [(layer, "info", 3)]
        assert {one.cause for one in behind} == {drift_facts.BEHIND}
        assert behind[0].severity == "warning"
        assert f"3 experts of layer {layer} are not the base's" in behind[0].message


@pytest.mark.parametrize(
    ("together", "aligned", "severity"),
    [(True, True, "info"), (True, False, "info"), (False, False, "warning"), (None, False, "warning")],
)
def test_renumbered(together: bool | None, aligned: bool, severity: str) -> None:
    order = random.Random(str(severity)).sample(range(EXPERTS), EXPERTS)
    moved = Renumbering(now=order, likeness=0.99, likeness_as_is=0.0, together=together, aligned=aligned)
    facts = {} if aligned else FAR
    (found,) = run(drifted(3, renumbering=moved, **facts))
    assert (found.severity, found.cause == drift_facts.TOGETHER) == (severity, bool(together))
    assert found.experts == [old for old, new in enumerate(order) if old != new]


def test_drift_beside_a_renumbering_is_found() -> None:
    order = Renumbering(now=[1, 0, *range(2, EXPERTS)], likeness=1, likeness_as_is=0, together=True, aligned=True)
    assert [one.severity for one in run(drifted(renumbering=order, own_sets=interval(0.2), **FAR))] == [
        "warning",
        "info",
    ]


@pytest.mark.parametrize("together", [True, None, False])
def test_pruned(together: bool | None) -> None:
    lost = LostExpert(expert=9, load=1.5, tokens=700, receivers=[Receiver(expert=4, share=0.6)])
    cold = LostExpert(expert=11, load=0.0, tokens=0, receivers=[])
    kept = [expert for expert in range(18) if expert not in (9, 11)]
    found = run(drifted(2, pruning=Pruning(kept=kept, gone=[lost, cold], together=together)))
    told = found[-1]
    assert (told.severity, told.cause, told.measured) == ("info", drift_facts.PRUNED, 2)
    for words in ("experts 9 and 11 of the base's 18 are gone", "60 % by expert 4", "it had no tokens"):
        assert words in told.message
    assert [one.cause for one in found[:-1]] == ([drift_facts.UNTIED] if together is False else [])


def test_old_results_have_no_facts() -> None:
    seen = drifted().drift
    assert seen is not None
    left_out = {"facts", "gate_same", "bias_same", "experts_changed", "pruning", "firm_overlap"}
    assert Drift.model_validate(seen.model_dump(exclude=left_out)).facts == []
