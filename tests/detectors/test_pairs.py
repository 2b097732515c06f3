"""Two faults in one trained checkpoint are two findings; `benchmarks/pairs.py` tries all pairs."""

import pytest
import torch

import moeprobe
from benchmarks.pairing import Planted, Said, pairs, sample, try_pair
from benchmarks.patient import Patient
from benchmarks.planting import recipe_for
from moeprobe.detectors.permuted_experts import BY_WEIGHTS, WORTHLESS

SEED = 0


@pytest.fixture(scope="module")
def patients() -> dict[str, Patient]:
    return {}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[Planted, Said]]:
    """What each fault says alone, by checkpoint: measured once."""
    return {}


def patient(name: str, patients: dict[str, Patient]) -> Patient:
    if name not in patients:
        patients[name] = Patient(name, "float32")
    return patients[name]


@pytest.mark.parametrize(
    ("checkpoint", "first", "second"),
    [
        ("qwen3_moe", Planted("permuted-experts/rows", 0), Planted("permuted-experts/rows", 1)),
        ("qwen2_moe", Planted("permuted-experts/rows", 1), Planted("scale-mismatch/one-layer", 3)),
        ("qwen2_moe", Planted("scale-mismatch/one-layer", 1), Planted("permuted-experts/rows", 3)),
        ("mixtral", Planted("flat-scores/equal-rows", 0), Planted("flat-scores/equal-rows", 2)),
        ("deepseek_v3", Planted("bias-runaway/one-up", 1), Planted("bias-runaway/one-up", 3)),
        ("deepseek_v4", Planted("hash-boundary/all-zero", 0), Planted("hash-boundary/all-zero", 1)),
    ],
    ids=lambda one: one if isinstance(one, str) else f"{one.name.partition('/')[2]}-{one.layer}",
)
def test_two_faults_are_two_findings(
    checkpoint: str,
    first: Planted,
    second: Planted,
    patients: dict[str, Patient],
    alone: dict[str, dict[Planted, Said]],
) -> None:
    # Of tables the weights tell; the loss tests of the larger checkpoint are left out.
    loss = checkpoint != "deepseek_v4"
    done = try_pair(patient(checkpoint, patients), (first, second), alone.setdefault(checkpoint, {}), loss)
    assert done.due == [first, second]
    assert (done.demoted, done.unsaid, done.blamed) == ([], [], [])


@pytest.mark.parametrize(("checkpoint", "count"), [("mixtral", 3), ("qwen2_moe", 3)])
def test_a_sample_of_all_pairs(
    checkpoint: str, count: int, patients: dict[str, Patient], alone: dict[str, dict[Planted, Said]]
) -> None:
    here = patient(checkpoint, patients)
    for pair in sample(here, count, SEED):
        done = try_pair(here, pair, alone.setdefault(checkpoint, {}))
        # What no detector finds beside the other fault follows nothing; the benchmark counts it.
        assert (done.demoted, done.blamed) == ([], []), pair


def test_all_pairs_are_planned(patients: dict[str, Patient]) -> None:
    planned = list(pairs(patient("qwen2_moe", patients)))
    names = {one.name for pair in planned for one in pair}
    assert {(one.name, other.name) for one, other in planned} == {(a, b) for a in names for b in names}
    assert all(one.layer < other.layer for one, other in planned)


@pytest.mark.parametrize("swaps", [[(1, 3)], [(0, 2), (1, 3)]], ids=["one swap", "two swaps"])
def test_swapped_gates_stand_at_every_layer(swaps: list[tuple[int, int]], patients: dict[str, Patient]) -> None:
    """None of the layers is behind the fault of another: the weights show each."""
    here = patient("qwen3_moe", patients)
    by_layer = {site.layer: site for site in here.sites}
    with here.damaged(), torch.no_grad():
        for one, other in swaps:
            kept = by_layer[one].weight.clone()
            by_layer[one].weight.copy_(by_layer[other].weight)
            by_layer[other].weight.copy_(kept)
        result = moeprobe.analyze(here.model, tokenizer=here.tokenizer, recipe=recipe_for(1024, True))
    standing = [one for one in result.problems if one.follows is None]
    assert {one.layer for one in standing} == {layer for swap in swaps for layer in swap}
    assert {one.cause for one in standing if one.detector == "permuted-experts"} <= {*BY_WEIGHTS, WORTHLESS}
    assert {one.detector for one in standing} <= {"permuted-experts", "untrained-gate"}
