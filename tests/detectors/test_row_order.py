"""permuted-experts by the weights alone, and how it meets the loss test."""

from typing import Any

import pytest

from moeprobe.detectors import duplicate_experts, permuted_experts
from moeprobe.detectors.permuted_experts import EXCHANGED, PERMUTED, SWAPPED, UNTIED, WORTHLESS
from moeprobe.findings.evidence import ChoiceTest, Experiments, RouterEvidence
from moeprobe.findings.weights import ForeignTie

from .synthetic import EXPERTS, RANDOM, choice, evidence, hashed, judged, learned, problems, row_tie, run

NAME = "permuted-experts"
WORTH, NOTHING, UNDECIDED = choice(layer=2), choice(-0.02, 0.01, layer=2), choice(-0.02, 0.2, layer=2)
MOVED: dict[str, Any] = {
    "value": 0.4, "kept": 0.1, "owner": [*range(1, EXPERTS), 0], "gap": [3.5] * 4 + [0.2] * (EXPERTS - 4),
}  # fmt: skip


def tied(layer: int, value: float = 7.0, **facts: Any) -> RouterEvidence:
    shape = facts.pop("gate_facts", {})
    foreign = facts.pop("foreign", None)
    tie = row_tie(**({"value": value} | facts))
    return learned(
        layer, gate_facts=shape, expert_facts={"coupling": tie.value, "tie": tie, "foreign": foreign}, weights_only=True
    )


def model(third: RouterEvidence, *others: float) -> list[RouterEvidence]:
    """A model of layers 0, 1, 2 and so on, of which the third is given."""
    ties = others or (7.0, 8.0, 6.5)
    made = [tied(layer if layer < 2 else layer + 1, value) for layer, value in enumerate(ties)]
    return [*made[:2], third, *made[2:]]


def with_loss(third: RouterEvidence, test: ChoiceTest):
    routers = [one.model_copy(update={"activations": learned().activations}) for one in model(third)]
    return run(NAME, *routers, experiments=Experiments(loss=4.0, choice=[test]))


def test_a_sound_model_is_silent() -> None:
    checks, findings = run(NAME, *model(tied(2)))
    assert findings == []
    assert {check.verdict for check in checks} == {"skipped"}
    assert all(check.weighed for check in checks)


def test_another_order_fits() -> None:
    _, (found,) = run(NAME, *model(tied(2, **MOVED)))
    assert (found.severity, found.cause, found.layer) == ("warning", PERMUTED, 2)
    assert "row 0 belongs to expert 1; row 1 belongs to expert 2" in found.message
    assert "the experts of 4 of 16 rows are sure" in found.message
    assert found.experts == [1, 2, 3, 4]
    assert found.measured == 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lead": 1.21}, True),
        ({"lead": 1.19}, False),
        ({"kept": 0.699}, True),
        ({"kept": 0.7}, False),
        # An order with a tie needs a clearer lead: half of the rows moved.
        ({"value": 4.0, "kept": 0.5, "lead": 1.51}, True),
        ({"value": 4.0, "kept": 0.5, "lead": 1.49}, False),
    ],
)
def test_limits_of_the_order(change: dict, said: bool) -> None:
    _, findings = run(NAME, *model(tied(2, **(MOVED | {"lead": 1.3} | change)), 2.0, 2.0, 2.0))
    assert [found.cause for found in findings] == ([PERMUTED] if said else [])


def test_exchanged_rows() -> None:
    rings = [{"rows": [3, 9], "gain": 6.0}, {"rows": [1, 2, 5], "gain": 5.0}, {"rows": [7, 8], "gain": 4.9}]
    _, (found,) = run(NAME, *model(tied(2, exchanged=rings)))
    assert (found.severity, found.cause, found.measured) == ("warning", EXCHANGED, 6.0)
    assert "row 3 belongs to expert 9, row 9 belongs to expert 3; row 1 belongs to expert 2" in found.message
    assert found.experts == [1, 2, 3, 5, 9]
    # Where the order as a whole is not right, single exchanges say nothing.
    for unclear in ({"value": 2.0}, {"kept": 0.6}, {"lead": 1.0}):
        _, findings = run(NAME, *model(tied(2, exchanged=rings, **unclear), 2.0, 2.0, 2.0))
        assert EXCHANGED not in {found.cause for found in findings}


def test_a_gate_of_another_layer() -> None:
    foreign = ForeignTie(router="model.layers.4.mlp.gate", value=9.0)
    _, (found,) = run(NAME, *model(tied(2, 0.3, lead=0.6, kept=0.1, foreign=foreign)))
    assert (found.severity, found.cause, found.measured) == ("warning", SWAPPED, 9.0)
    assert "those of model.layers.4.mlp.gate have (9; the limit is 4)" in found.message
    # Two layers of four have none then, so nothing is expected; the other's gate is proof enough.
    both = [tied(0), tied(1), tied(2, 0.3, lead=0.6, kept=0.1, foreign=foreign), tied(3, -0.5, lead=0.6, kept=0.0)]
    assert [found.layer for found in run(NAME, *both)[1]] == [2]
    weak = foreign.model_copy(update={"value": 3.9})
    assert SWAPPED not in {f.cause for f in run(NAME, *model(tied(2, 0.3, lead=0.6, kept=0.1, foreign=weak)))[1]}


NONE: dict[str, Any] = {"lead": 0.6, "kept": 0.1}


@pytest.mark.parametrize(
    ("value", "others", "said"),
    [
        (2.5, (7.0, 8.0, 6.5), True),
        (2.51, (7.0, 8.0, 6.5), False),
        (0.0, (20.0,), False),  # too few others
        (0.0, (7.0, 8.0), False),  # two may be alike by chance
        (0.0, (19.0, 15.0), True),
        (0.0, (7.0, 8.0, 6.5, 1.0, 0.5), False),  # half of the layers have none
        (0.0, (24.0, 10.7, 8.3), False),  # falls with depth: little is expected
        (-1.0, (5.0, 4.5, 5.5), False),  # weak everywhere
        (-1.0, (33.0, 20.0, 18.0, 25.0, 30.0, 1.0), True),  # another one lacks its tie as well
    ],
)
def test_a_layer_without_the_tie_that_the_others_have(value: float, others: tuple, said: bool) -> None:
    _, findings = run(NAME, *model(tied(2, value, **NONE), *others))
    assert (2 in {found.layer for found in findings if found.cause == UNTIED}) == said


def test_a_random_look_is_mentioned() -> None:
    for shape, mentioned in (({"shape": RANDOM}, True), ({}, False)):
        _, (found,) = run(NAME, *model(tied(2, 0.1, **NONE, gate_facts=shape)))
        assert ("never trained" in found.message) == mentioned


@pytest.mark.parametrize(
    ("facts", "test", "severity", "words"),
    [
        (MOVED, NOTHING, "error", "the loss agrees: random experts change the loss"),
        (MOVED, WORTH, "warning", "the loss test does not confirm it: random experts"),
        (MOVED | {"value": 4.0, "kept": 0.5}, WORTH, "warning", "as it may where only some rows are moved"),
        (MOVED, UNDECIDED, "warning", "the loss test does not decide it"),
        ({"value": 0.1} | NONE, NOTHING, "error", "the loss agrees"),
        ({"value": 0.1} | NONE, UNDECIDED, "warning", "the loss test does not decide it"),
        # Sound layers without a tie exist, and this one's choice is worth something.
        ({"value": 0.1} | NONE, WORTH, "info", "the loss test does not confirm it"),
    ],
)
def test_weights_and_loss(facts: dict, test: ChoiceTest, severity: str, words: str) -> None:
    _, (found,) = with_loss(tied(2, **facts), test)
    assert (found.severity, found.layer) == (severity, 2)
    assert words in found.message


def test_the_loss_alone_says_that_the_weights_disagree() -> None:
    _, (found,) = with_loss(tied(2), NOTHING)
    assert (found.severity, found.cause) == ("warning", WORTHLESS)
    assert "although its rows and experts have a tie (7 standard errors)" in found.message


def test_a_hash_layer_is_not_judged_by_its_tie() -> None:
    table = hashed(2)
    assert table.experts is not None
    table = table.model_copy(update={"experts": table.experts.model_copy(update={"coupling": 0.0})})
    assert run(NAME, *model(table))[1] == []


def test_what_the_weights_show_follows_no_earlier_layer() -> None:
    test = choice(-0.02, 0.01, layer=1)
    routers = [one.model_copy(update={"activations": learned().activations}) for one in model(tied(2, **MOVED))]
    found = judged(evidence(*routers, experiments=Experiments(loss=4.0, choice=[test])), NAME).findings
    assert {one.layer: (one.cause, one.follows) for one in found} == {1: (WORTHLESS, None), 2: (PERMUTED, None)}


def test_copies_explain_a_lost_order() -> None:
    third = tied(2, **MOVED)
    assert third.experts is not None
    third = third.model_copy(update={"experts": third.experts.model_copy(update={"identical": [[1, 2, 3, 4, 5]]})})
    found = judged(evidence(*model(third), probed=False), NAME, "duplicate-experts").findings
    assert [(one.cause, one.severity) for one in found] == [(duplicate_experts.IDENTICAL, "error"), (PERMUTED, "info")]


def test_untrained_gates_hide_nothing() -> None:
    third = learned(2, gate_facts={"shape": RANDOM}, expert_facts={"coupling": 0.1})
    seen = evidence(learned(0), third, experiments=Experiments(loss=4.0, choice=[NOTHING]))
    found = judged(seen, NAME, "untrained-gate").findings
    assert problems(found) == [
        ("warning", permuted_experts.WORTHLESS),
        ("warning", "the gate is a random matrix"),
    ]
    assert all(one.follows is None for one in found)
