"""MP801: each bar from both sides, the order of the clauses, what follows from what, and where it says nothing."""

from typing import Any

import pytest

from moeprobe.detectors import drift_facts, routing_drift
from moeprobe.findings.drift import LoadShift, Renumbering
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.finding import Check, Finding
from moeprobe.findings.numbers import Interval

from .drifted import compared, drift, drifted, drifted_table, interval
from .synthetic import EXPERTS, evidence, judged, learned

NAME = "routing-drift"


FIRM = "share of the base's experts kept, weighted by the base's margin, beyond chance"
KEPT = "share of the base's experts kept, beyond chance"
WEIGHTS = "L1 distance of the routing weights over their sum, without changed choices"


def run(*routers: RouterEvidence, limits: dict[str, float] | None = None) -> tuple[list[Check], list[Finding]]:
    result = judged(compared(*routers), NAME, limits=limits and {NAME: limits})
    return result.checks, result.findings


def shift(ratio: float, base: float = 1.0, around: float = 1.1, expert: int = 2) -> LoadShift:
    known = Interval(value=ratio, low=ratio / around, high=ratio * around)
    return LoadShift(expert=expert, base=base, tuned=base * ratio, ratio=known)


def renumbered(likeness: float, as_is: float) -> Renumbering:
    return Renumbering(now=[1, 0, *range(2, EXPERTS)], likeness=likeness, likeness_as_is=as_is)


@pytest.mark.parametrize(
    ("facts", "quantity"),
    [
        ({}, None),
        ({"firm_sets": interval(0.1)}, None),
        ({"firm_overlap": interval(0.83)}, None),
        ({"firm_overlap": interval(0.79)}, FIRM),
        ({"firm_overlap": interval(0.79, 0.1)}, None),
        ({"firm_overlap": Interval(value=0.79)}, FIRM),
        ({"overlap": interval(0.72)}, None),
        ({"overlap": interval(0.68)}, KEPT),
        ({"overlap": interval(0.68, 0.1)}, None),
        ({"overlap": interval(1, 0), "weight_l1": interval(0.48)}, None),
        ({"overlap": interval(1, 0), "weight_l1": interval(0.52)}, WEIGHTS),
        ({"overlap": interval(0.8), "weight_l1": interval(0.52)}, None),
        ({"load_tv": interval(0.13)}, None),
        ({"load_tv": interval(0.17)}, "total variation of the load"),
        ({"load_tv": interval(0.17), "load_tv_floor": 0.2}, None),
        ({"load_tv": interval(0.17), "load_tv_floor": None}, "total variation of the load"),
        ({"shifts": [shift(4)]}, None),
        ({"shifts": [shift(6)]}, "factor by which an expert's load changed"),
        ({"shifts": [shift(1 / 6)]}, "factor by which an expert's load changed"),
        ({"shifts": [shift(6, around=2)]}, None),
        ({"shifts": [shift(6, base=0.05)]}, None),
        ({"shifts": [shift(1 / 6, base=0.4)]}, None),
        ({"renumbering": renumbered(0.9, 0.1)}, "correlation with the base's expert of the same number"),
        ({"renumbering": renumbered(0.7, 0.1)}, None),
        ({"renumbering": renumbered(0.9, 0.85)}, None),
    ],
)
def test_bars(facts: dict[str, Any], quantity: str | None) -> None:
    checks, findings = run(drifted(**facts))
    assert [(one.severity, one.quantity) for one in findings] == ([("warning", quantity)] if quantity else [])
    assert checks[0].verdict == ("finding" if quantity else "clean")


CHOICES = [(1, 8), (2, 8), (4, 8), (6, 8), (1, 16), (4, 16), (6, 64), (8, 64), (1, 128), (8, 128)]


@pytest.mark.parametrize(("chosen", "experts"), CHOICES)
def test_the_limits_mean_the_same_for_every_choice(chosen: int, experts: int) -> None:
    """0.45 and 0.8 of the way from chance to the base's choice, and chance itself; whole sets do not matter."""
    chance = chosen / experts

    def verdict(beyond: float) -> list[str]:
        kept = chance + beyond * (1 - chance)
        one = drifted(overlap=interval(kept), firm_overlap=interval(kept), firm_sets=interval(kept**chosen))
        facts = {"top_k": chosen, "score_columns": experts, "experts": experts}
        one = one.model_copy(update={"router": one.router.model_copy(update=facts)})
        return [found.quantity for found in run(one)[1]]

    assert verdict(0.8) == []
    assert verdict(0.45) == verdict(0.0) == [FIRM]


@pytest.mark.parametrize(("chosen", "experts"), [*CHOICES, (12, 16), (15, 16)])
def test_nine_tenths_of_the_choices_are_enough_unless_chance_gives_them(chosen: int, experts: int) -> None:
    facts = {"top_k": chosen, "score_columns": experts, "experts": experts}

    def found(kept: float) -> list[Finding]:
        one = drifted(overlap=interval(kept, 0.005), firm_overlap=interval(kept + 0.01, 0.005))
        return run(one.model_copy(update={"router": one.router.model_copy(update=facts)}))[1]

    assert bool(found(0.9)) == (chosen / experts > 0.8)
    assert found(chosen / experts)


def test_where_all_are_chosen_no_choice_is_judged() -> None:
    one = drifted(overlap=interval(1, 0), firm_overlap=None)
    one = one.model_copy(update={"router": one.router.model_copy(update={"top_k": 16})})
    assert run(one)[1] == []


def test_cold_and_hot_experts_are_named() -> None:
    _, (found,) = run(drifted(shifts=[shift(8, expert=3), shift(0.05, expert=5), shift(2.5, expert=7)]))
    assert found.experts == [5, 3]
    assert "expert 5 went cold and expert 3 went hot" in found.message
    assert found.measured == pytest.approx(20)


@pytest.mark.parametrize("changed", [0, 1, 500])
def test_a_changed_table_is_an_error(changed: int) -> None:
    checks, findings = run(drifted_table(changed=changed, tokens=10))
    if changed:
        assert [(one.severity, one.cause, one.measured) for one in findings] == [
            ("error", routing_drift.TABLE, changed)
        ]
    else:
        assert (findings, checks[0].reason) == ([], "too few tokens: 10 of 1,000")


def test_a_table_in_another_order_is_a_warning() -> None:
    _, (found,) = run(drifted_table(changed=900, renumbering=renumbered(1.0, 0.0)))
    assert (found.severity, found.cause) == ("warning", drift_facts.RENUMBERED)
    assert found.experts == [0, 1]
    assert "0 is now 1, 1 is now 0" in found.message


@pytest.mark.parametrize(
    ("own", "cause"),
    [(interval(0.2), routing_drift.OWN), (interval(0.99), routing_drift.INHERITED), (None, routing_drift.UNTOLD)],
)
def test_where_the_change_comes_from(own: Interval | None, cause: str) -> None:
    _, (found,) = run(drifted(firm_overlap=interval(0.3), same_sets=interval(0.3), own_sets=own))
    assert found.cause == cause


def test_what_comes_from_above_follows_the_first_layer_that_drifted() -> None:
    far = {"firm_overlap": interval(0.3), "same_sets": interval(0.3)}
    _, findings = run(
        drifted(0), drifted(1, **far, own_sets=interval(0.2)), drifted(2, **far, own_sets=interval(1, 0)),
        drifted(3, **far, own_sets=interval(0.1)),
    )  # fmt: skip
    first = "model.layers.1.mlp.gate"
    assert [(one.layer, one.severity, one.follows) for one in findings] == [
        (1, "warning", None),
        (3, "warning", None),
        (2, "info", first),
    ]


def test_the_first_layer_stands_even_if_its_gate_is_the_bases() -> None:
    far = {"firm_overlap": interval(0.3), "same_sets": interval(0.3), "own_sets": interval(1, 0)}
    _, findings = run(drifted(0), drifted(1, **far), drifted(2, **far))
    assert [(one.layer, one.severity) for one in findings] == [(1, "warning"), (2, "info")]


def test_other_weights_for_the_same_experts_point_to_the_config() -> None:
    _, (found,) = run(drifted(overlap=interval(1, 0), same_sets=interval(1, 0), weight_l1=interval(0.6)))
    assert found.cause == routing_drift.WEIGHTS
    assert "routed_scaling_factor" in found.remedy


def test_skipped_without_a_base() -> None:
    result = judged(evidence(learned()), NAME)
    assert [(c.verdict, c.reason) for c in result.checks] == [("skipped", "needs a base model")]


def test_a_router_that_the_base_could_not_record_is_not_clean() -> None:
    checks, _ = run(learned())
    assert (checks[0].verdict, checks[0].reason) == ("failed", "the base's router could not be recorded or verified")
    unverified = learned(facts={"verified": False, "reason": "it fired twice"})
    assert run(unverified)[0][0].reason == "it fired twice"


def test_limits_can_be_moved() -> None:
    assert run(drifted(), limits={"firm_warning": 0.95})[1][0].limit_name == "routing-drift.firm_warning"
    assert run(drifted(tokens=500))[0][0].verdict == "skipped"
    assert run(drifted(tokens=500), limits={"min_tokens": 100})[0][0].verdict == "clean"


def test_saved_and_loaded_drift_is_the_same() -> None:
    seen = drift(shifts=[shift(6)], renumbering=renumbered(0.9, 0.1))
    assert type(seen).model_validate_json(seen.model_dump_json()) == seen
