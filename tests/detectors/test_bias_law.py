"""The balance law over all layers: from both sides, and planted in the trained checkpoints."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import moeprobe
from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.detectors.bias_balance import OPPOSED, UNBALANCES, UNRELATED
from moeprobe.detectors.bias_law import FOREIGN
from moeprobe.findings.evidence import BalanceLaw, RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.routers.find import find_sites

from .synthetic import bias, learned, run

NAME = "bias-runaway"


def layer(number: int, values: list[float], wanted: list[float], experts: int = 16) -> RouterEvidence:
    """A layer with these biases, where ``wanted`` would balance."""
    correlation = float(torch.corrcoef(torch.tensor([values, wanted], dtype=torch.float64))[0, 1])
    law = BalanceLaw(correlation=correlation, slope=1.0, quantiles=[-w for w in wanted])
    facts = {"selection_bias": bias(values), "experts": experts, "score_columns": experts}
    return learned(number, facts=facts, balance_law=law)


def drawn(seed: int, experts: int = 16) -> list[float]:
    return (torch.randn(experts, generator=torch.Generator().manual_seed(seed)) * 0.05).tolist()


def correlated(wanted: list[float], correlation: float, seed: int) -> list[float]:
    """Biases that correlate by exactly this much with ``wanted``."""
    w = torch.tensor(wanted, dtype=torch.float64)
    w = (w - w.mean()) / (w - w.mean()).norm()
    noise = torch.tensor(drawn(seed, len(wanted)), dtype=torch.float64)
    noise = noise - noise.mean()
    noise = noise - (noise @ w) * w
    return (0.2 * (correlation * w + (1 - correlation**2) ** 0.5 * noise / noise.norm())).tolist()


def said(*layers: RouterEvidence) -> list[tuple[str, str, int | None]]:
    about = (UNRELATED, OPPOSED, FOREIGN)
    return [(f.severity, f.cause, f.layer) for f in run(NAME, *layers)[1] if f.cause in about]


def stack(correlations: list[float], experts: int = 16) -> list[RouterEvidence]:
    layers = []
    for number, correlation in enumerate(correlations):
        wanted = drawn(100 + number, experts)
        layers.append(layer(number, correlated(wanted, correlation, 200 + number), wanted, experts))
    return layers


@pytest.mark.parametrize(
    ("correlations", "experts", "severity"),
    [
        ([0.1] * 5, 16, "warning"),  # five of five
        ([0.2] * 3, 16, "warning"),
        ([0.4] * 5, 16, "info"),  # low, but five healthy ones may be
        ([0.1], 16, "info"),
        ([0.1, 0.9, 0.9, 0.9], 16, "info"),  # one of four
        ([0.0, 0.0, 0.9, 0.9], 16, "warning"),  # two of four
        ([0.1], 256, "warning"),  # enough experts
        ([0.15] + [0.9] * 57, 256, "warning"),
        ([0.2] * 5, 8, "info"),
        ([0.1] * 5, 8, "warning"),
        ([-0.3] * 4, 8, "info"),  # too few experts in all to say so
        ([0.9] * 5, 16, None),
        ([0.7, 0.66, 0.75], 16, None),
    ],
)
def test_layers_together_and_the_number_of_experts(
    correlations: list[float], experts: int, severity: str | None
) -> None:
    low = [number for number, correlation in enumerate(correlations) if correlation < 0.62]
    assert said(*stack(correlations, experts)) == [(severity, UNRELATED, number) for number in low] * bool(severity)


def test_the_message_gives_the_interval_of_healthy_ones() -> None:
    (first, *_) = [f for f in run(NAME, *stack([0.1] * 5))[1] if f.cause == UNRELATED]
    assert "5 of 5 layers do so, together by 0.1" in first.message
    assert "healthy biases of 16 experts lie above 0.357 together" in first.message


def test_biases_that_changed_places_are_named_with_their_layers() -> None:
    wanted = [drawn(i) for i in range(4)]
    right = [layer(i, correlated(wanted[i], 0.9, 50 + i), wanted[i]) for i in range(4)]
    assert said(*right) == []
    held = [r.router.selection_bias.values for r in right]
    swapped = [layer(i, held[j], wanted[i]) for i, j in enumerate((0, 2, 1, 3))]
    assert said(*swapped) == [("error", FOREIGN, 1), ("error", FOREIGN, 2)]
    messages = [f.message for f in run(NAME, *swapped)[1] if f.cause == FOREIGN]
    assert ["layer 2" in messages[0], "layer 1" in messages[1]] == [True, True]
    everywhere = [layer(i, held[3], wanted[i]) for i in range(4)]
    assert said(*everywhere) == [("error", FOREIGN, number) for number in (0, 1, 2)]


def test_an_opposed_bias_stays_one() -> None:
    assert said(*stack([0.9, -0.9, 0.9])) == [("warning", OPPOSED, 1)]


Plant = Callable[[list[Tensor], random.Random], list[int]]


def turned(biases: list[Tensor], _dice: random.Random) -> list[int]:
    held = [one.clone() for one in biases]
    for place, one in enumerate(biases):
        one.copy_(held[place - 1])
    return list(range(len(biases)))


def exchanged(biases: list[Tensor], dice: random.Random) -> list[int]:
    first, second = dice.sample(range(len(biases)), 2)
    held = biases[first].clone()
    biases[first].copy_(biases[second])
    biases[second].copy_(held)
    return sorted((first, second))


def shuffled(biases: list[Tensor], dice: random.Random) -> list[int]:
    for one in biases:
        one.copy_(one[torch.tensor(dice.sample(range(len(one)), len(one)))])
    return list(range(len(biases)))


def moved(biases: list[Tensor], _dice: random.Random) -> list[int]:
    """Harmless: a common offset, and another scale."""
    for one in biases:
        one.mul_(1.1).add_(0.02)
    return []


def analysed(folder: Path, plant: Plant, seed: int) -> tuple[Result, list[int | None]]:
    checkpoint = open_checkpoint(folder)
    model = load_model(checkpoint, dtype="float32").model
    sites = [one for one in find_sites(model) if getattr(one.router, "e_score_correction_bias", None) is not None]
    with torch.no_grad():
        hit = plant([one.router.e_score_correction_bias for one in sites], random.Random(seed))
    options = {"recipe": "quick", "max_tokens": 4096, "select": [NAME]}
    result = moeprobe.analyze(model, tokenizer=load_tokenizer(checkpoint), **options)
    return result, [sites[place].layer for place in hit]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["deepseek_v3", "demo"])
@pytest.mark.parametrize("plant", [turned, exchanged, shuffled, moved])
def test_planted_in_trained_checkpoints(plant: Plant, name: str, seed: int, checkpoints: Path, bundled: Path) -> None:
    result, hit = analysed(bundled if name == "demo" else checkpoints / name, plant, seed)
    problems = result.problems
    assert [found.layer for found in problems] == hit
    assert UNBALANCES not in {found.cause for found in problems}
    if plant in (turned, exchanged):
        assert {found.cause for found in problems} == {FOREIGN}
        assert {found.severity for found in problems} == {"error"}
    elif hit:
        assert {found.cause for found in problems} == {UNRELATED}
