"""MP705: both conditions from both sides; the null distributions of the four numbers."""

import pytest
import torch
from torch import Tensor

from moeprobe.detectors.randomness import distance
from moeprobe.detectors.untrained_gate import RANDOM as CAUSE
from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.gate_shape import gate_shape

from .synthetic import RANDOM, hashed, learned, run, shape

NAME = "untrained-gate"


def untrained(coupling: float | None = 0.5, **facts: object) -> object:
    return learned(gate_facts={"shape": RANDOM}, expert_facts={"coupling": coupling}, **facts)


def test_both_conditions_are_needed() -> None:
    checks, (found,) = run(NAME, untrained())
    assert (found.severity, found.cause, found.measured) == ("warning", CAUSE, 0.5)
    assert checks[0].verdict == "finding"
    for healthy in (untrained(3.0), learned(expert_facts={"coupling": 0.5}), learned()):
        checks, findings = run(NAME, healthy)
        assert (checks[0].verdict, findings) == ("clean", [])
    assert len(run(NAME, untrained(2.99))[1]) == 1


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
    assert run(NAME, untrained(weights_only=True))[0][0].verdict == "finding"


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
