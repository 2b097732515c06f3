"""MP705: all three conditions from both sides; the null distributions of the four numbers."""

import math

import pytest
import torch
from torch import Tensor

from moeprobe.detectors.randomness import distance
from moeprobe.detectors.untrained_gate import RANDOM as CAUSE
from moeprobe.findings.evidence import ChoiceTest, Experiments
from moeprobe.findings.weights import ExpertWeights, ForeignTie
from moeprobe.routers.gate_shape import gate_shape

from .synthetic import RANDOM, choice, hashed, learned, row_tie, run, shape

NAME = "untrained-gate"


WORTHLESS = choice(-0.02, 0.01)


def untrained(coupling: float | None = 0.5, expert_facts: dict | None = None, **facts: object) -> object:
    return learned(gate_facts={"shape": RANDOM}, expert_facts={"coupling": coupling} | (expert_facts or {}), **facts)


def with_loss(router: object, *tests: ChoiceTest, loss: float = 4.0, **limits: float):
    return run(NAME, router, experiments=Experiments(loss=loss, choice=list(tests)), limits=limits)


def test_weights_and_loss_must_agree() -> None:
    checks, (found,) = with_loss(untrained(), WORTHLESS)
    assert (found.severity, found.cause, found.measured) == ("warning", CAUSE, 0.5)
    assert checks[0].verdict == "finding"
    assert len(with_loss(untrained(2.99), WORTHLESS)[1]) == 1
    for healthy in (untrained(3.0), learned(expert_facts={"coupling": 0.5}), learned()):
        checks, findings = with_loss(healthy, WORTHLESS)
        assert (checks[0].verdict, findings) == ("clean", [])


def test_a_choice_that_is_worth_something_clears_it() -> None:
    checks, findings = with_loss(untrained(), choice())
    assert (checks[0].verdict, findings) == ("clean", [])
    assert "but its choice is worth something: random experts change the loss by" in checks[0].reason


@pytest.mark.parametrize(
    ("tests", "options", "reason"),
    [
        ([], {}, "only the loss test of the choice could tell"),
        ([], {"loss": math.nan}, "nothing else tells: the loss of the probe is not finite"),
        ([choice(layer=1)], {}, "nothing else tells: its experts module takes no choice that could be replaced"),
        ([choice(-0.02, 0.2)], {}, "the loss test does not tell: not decided, too few tokens"),
        ([choice(-0.02, 0.01, documents=7)], {}, "the loss test does not tell: too few documents: 7 of 8"),
        ([choice(-0.001, 0.001, stir=0.01)], {}, "the loss test does not tell: random experts change the loss"),
    ],
)
def test_without_the_loss_it_is_not_decided(tests: list, options: dict, reason: str) -> None:
    checks, findings = with_loss(untrained(), *tests, **options)
    assert (checks[0].verdict, findings) == ("skipped", [])
    assert checks[0].reason.startswith("not decided: the gate looks like random numbers (at most ")
    assert reason in checks[0].reason


def test_another_order_or_another_layer_is_no_lack_of_training() -> None:
    permuted = {"tie": row_tie(lead=1.5, kept=0.1)}
    swapped = {"foreign": ForeignTie(router="model.layers.3.mlp.gate", value=8.0)}
    for facts in (permuted, swapped):
        checks, findings = with_loss(untrained(expert_facts=facts), WORTHLESS)
        assert (checks[0].verdict, findings) == ("clean", [])
        assert "see permuted-experts" in checks[0].reason


@pytest.mark.parametrize(
    "change", [{"norm_variation": 0.2}, {"largest_singular": 1.3}, {"cosine_rms": 1.6}, {"kurtosis": 3.9}]
)
def test_each_number_can_clear_it(change: dict) -> None:
    far = learned(gate_facts={"shape": shape(**(RANDOM.model_dump() | change))}, expert_facts={"coupling": 0.0})
    assert run(NAME, far)[0][0].verdict == "clean"


def test_skipped() -> None:
    unknown = untrained().model_copy(update={"experts": ExpertWeights(reason="the experts are quantised")})
    cases = {
        "a hash table chooses here, not the gate": hashed(),
        "the gate's weights were not read, or are zero or not finite": learned(gate_facts={"shape": None}),
        "the gate is too small to tell: 4 x 32": learned(gate_facts={"shape": shape(rows=4, columns=32)}),
        "the gate looks random, but its tie to the experts is not known: the experts are quantised": unknown,
    }
    for reason, router in cases.items():
        checks, _ = run(NAME, router)
        assert (checks[0].verdict, checks[0].reason) == ("skipped", reason)
    alike = untrained(None, {"untied": "all experts answer alike to all rows"})
    assert run(NAME, alike)[0][0].reason.endswith("is not known: all experts answer alike to all rows")
    checks, findings = run(NAME, untrained(weights_only=True))
    assert (checks[0].verdict, findings) == ("skipped", [])
    assert checks[0].reason.startswith("not decided: ")


def fresh(kind: str, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    if kind == "normal":
        return torch.randn(rows, columns, generator=generator) * 0.02
    if kind == "bfloat16":
        return (torch.randn(rows, columns, generator=generator) / columns**0.5).bfloat16()
    if kind == "uniform":
        return (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5
    return torch.nn.init.trunc_normal_(torch.empty(rows, columns), a=-2, b=2, generator=generator)


@pytest.mark.parametrize("kind", ["normal", "bfloat16", "uniform", "truncated"])
@pytest.mark.parametrize("size", [(8, 64), (16, 128), (8, 4096), (64, 64), (64, 2048), (256, 1024)])
def test_random_matrices_look_random(kind: str, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        found = gate_shape(fresh(kind, *size, generator))
        assert found is not None
        assert distance(found)[0] < 4


@pytest.mark.parametrize("size", [(64, 1024), (256, 2048)])
def test_structure_does_not(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    noise = fresh("normal", *size, generator)
    common = torch.randn(1, size[1], generator=generator) * 0.02
    for trained in (noise + 0.2 * common, noise * torch.linspace(0.9, 1.1, size[0]).unsqueeze(-1), noise**3):
        found = gate_shape(trained)
        assert found is not None
        assert distance(found)[0] > 4


def test_a_gate_without_a_shape() -> None:
    assert gate_shape(torch.randn(2, 64)) is None
    assert gate_shape(torch.zeros(8, 64)) is None
    assert gate_shape(torch.full((8, 64), float("nan"))) is None
