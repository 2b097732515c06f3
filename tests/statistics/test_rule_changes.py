"""What differs before any token is read: each fact alone, what only looks different, matrices, biases and experts."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from moeprobe.findings.router import Arithmetic, Bias, Declared, Groups
from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.gate import Gate
from moeprobe.statistics.rule_changes import changed_experts, fact_changes, follow, same_biases, same_matrix
from tests.statistics.test_merge import EXPERTS, gate

GROUPS = Groups(count=4, kept=2, score="max", fill="-inf")
BIAS = Bias(name="b", dtype="float32", stored_dtype=None, values=[0.1 * number for number in range(EXPERTS)])


def facts(base: dict[str, Any], tuned: dict[str, Any]) -> list[tuple[str, str, str]]:
    same = {"score_function": "sigmoid", "explaining": ["sigmoid"], "renormalised": True, "scaling_factor": 1.0}
    start = gate().router.model_copy(update=same)
    one, other = (start.model_copy(update=given) for given in (base, tuned))
    return [(found.name, found.base, found.tuned) for found in fact_changes(one, other)]


@pytest.mark.parametrize(
    ("base", "tuned", "found"),
    [
        ({}, {}, None),
        ({"top_k": 2}, {"top_k": 3}, ("top-k", "2", "3")),
        ({}, {"renormalised": False}, ("renormalisation", "on", "off")),
        ({"renormalised": None}, {"renormalised": False}, None),
        ({}, {"scaling_factor": 2.5}, ("scaling factor", "1", "2.5")),
        ({}, {"scaling_factor": 1.005}, None),
        ({"scaling_factor": None}, {"scaling_factor": 2.0}, None),
        ({"output_factor": 1.0}, {"output_factor": 4.0}, ("output factor", "1", "4")),
        (
            {},
            {"score_function": "softmax", "explaining": ["softmax"]},
            ("score function", "sigmoid", "softmax"),
        ),
        ({}, {"score_function": "softmax", "explaining": ["softmax", "sigmoid"]}, None),
        ({"groups": None}, {"groups": GROUPS}, ("groups", "none", "2 of 4 groups by the best member")),
        ({"groups": None}, {"groups": GROUPS.model_copy(update={"kept": 4})}, None),
        ({"selection_bias": BIAS}, {"selection_bias": None}, ("selection bias", "present", "none")),
        ({"selection_bias": None}, {"selection_bias": BIAS.model_copy(update={"values": [2.0] * EXPERTS})}, None),
        (
            {"selection_bias": BIAS},
            {"selection_bias": BIAS, "bias_on": "logits"},
            ("place of the bias", "scores", "logits"),
        ),
        (
            {"renormalised": None, "declared": Declared(renormalised=True)},
            {"renormalised": None, "declared": Declared(renormalised=False)},
            ("renormalisation", "on", "off"),
        ),
    ],
)  # fmt: skip
def test_each_fact(base: dict[str, Any], tuned: dict[str, Any], found: tuple[str, str, str] | None) -> None:
    assert facts(base, tuned) == ([found] if found else [])


def test_a_coarser_dtype_does_not_change_what_both_configs_say() -> None:
    both = {"declared": Declared(renormalised=False)}
    coarse = Arithmetic(product=None, score=None, selection=None, weights="bfloat16")
    fine = Arithmetic(product=None, score=None, selection=None, weights="float32")
    assert facts(both | {"arithmetic": fine, "renormalised": False}, both | {"arithmetic": coarse}) == []
    assert facts(both | {"arithmetic": fine, "renormalised": False}, both | {"arithmetic": fine}) != []


def test_matrices_and_biases_in_the_coarser_dtype() -> None:
    base = replace(gate(), selection_bias=torch.linspace(0, 1, EXPERTS), logit_bias=None)
    coarse = replace(base, weight=base.weight.bfloat16())
    assert same_matrix(base, coarse) is same_matrix(coarse, base) is same_biases(base, base) is True
    assert same_matrix(base, replace(base, weight=base.weight * 1.01)) is False
    assert same_matrix(base, replace(base, weight=None)) is None
    assert same_biases(base, replace(base, selection_bias=base.selection_bias + 1)) is False
    assert same_biases(base, replace(base, selection_bias=None)) is False
    assert same_biases(base, replace(base, logit_bias=torch.zeros(EXPERTS))) is True
    tables = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [2, 4]])]
    first, second = (Gate(router=base.router, weight=base.weight, table=table) for table in tables)
    assert (same_matrix(first, first), same_matrix(first, second)) == (True, False)


def experts(order: list[int], dtype: str = "float32", noise: float = 0.0) -> ExpertWeights:
    drawn = [random.Random(number).uniform(1, 2) for number in range(32)]
    return ExpertWeights(
        rms={"up": [drawn[one] * (1 + noise) for one in order], "down": [3 - drawn[one] for one in order]},
        checksums=[f"{dtype}:{one:08x}" for one in order],
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_follow_their_rows_or_not(dtype: str) -> None:
    base = experts(list(range(12)))
    order = random.Random(dtype).sample(range(12), 12)
    noise = 0.0 if dtype == "float32" else 1e-4
    assert follow(base, experts(order, dtype, noise), order) is True
    assert follow(base, experts(list(range(12)), dtype, noise), order) is False
    assert follow(base, experts(order[:8], dtype, noise), order[:8]) is True
    assert follow(base, None, order) is None
    assert follow(base, ExpertWeights(reason="the experts are quantised"), order) is None
    assert follow(base, base, list(range(12))) is True


def test_experts_that_changed_are_counted_in_one_dtype_only() -> None:
    base = experts(list(range(8)))
    tuned = base.model_copy(update={"checksums": [*base.checksums[:5], "float32:1", "float32:2", "float32:3"]})
    assert changed_experts(base, tuned, range(8)) == 3
    assert changed_experts(base, base, range(8)) == 0
    assert changed_experts(base, experts(list(range(8)), "bfloat16"), range(8)) is None
    assert changed_experts(base, ExpertWeights(), range(8)) is None
    assert changed_experts(None, base, range(8)) is None
