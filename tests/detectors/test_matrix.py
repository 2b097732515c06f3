"""The fault x detector matrix: exactly the planted fault is found, at its layer; look-alikes are not found at all.

One strong case of each fault in the smallest checkpoint that it fits; `benchmarks/detectors.py` measures the rest.
"""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.patient import CHECKPOINTS, Patient
from benchmarks.planting import FAULTS, HEALTHY, LOOKALIKES, Fault, Lookalike, disguise, plant
from benchmarks.scoring import Case, Scored

SMALLEST_FIRST = ("mixtral", "qwen2_moe", "deepseek_v3", "deepseek_v4")
ALSO_IN = {"bias-runaway/one-up": "deepseek_v4", "bias-runaway/one-down": "deepseek_v4"}
"""Another score function, other bounds: worth a second case."""

ONLY_IN = {"permuted-experts/rows": "qwen2_moe"}
"""A permutation of the gate rows may be a lucky one, better than random experts; this one is not."""

ELSEWHERE = {
    "dead-experts/never-chosen": "needs 28,000 tokens to be proved: tests/detectors/test_load_on_checkpoints.py",
    "low-precision-routing/coarse-logits": "logits changed behind the gate's product cannot be recomputed: "
    "tests/detectors/test_low_precision.py",
}
"""Faults that this small probe cannot show, and where they are tested."""

STRENGTH = {"scale-mismatch/norm-flipped": 1}
"""Where the strongest dose is not one that the definition demands a finding for."""


@pytest.fixture(scope="module")
def patients() -> Iterator[dict[tuple[str, str], Patient]]:
    """Patients by checkpoint and dtype, loaded once; at the end each is as it was loaded, bit for bit."""
    loaded: dict[tuple[str, str], Patient] = {}
    yield loaded
    for (name, dtype), patient in loaded.items():
        fresh, now = Patient(name, dtype).model, patient.model
        assert vars(fresh.config) == vars(now.config)
        kept = now.state_dict()
        assert all(torch.equal(tensor, kept[key]) for key, tensor in fresh.state_dict().items())


def patient(patients: dict[tuple[str, str], Patient], name: str, dtype: str = "float32") -> Patient:
    if (name, dtype) not in patients:
        patients[name, dtype] = Patient(name, dtype)
    return patients[name, dtype]


def cases() -> Iterator[tuple[Fault, str | None]]:
    for fault in FAULTS:
        if fault.visible and fault.full_name not in ELSEWHERE:
            yield fault, ONLY_IN.get(fault.full_name)
            if other := ALSO_IN.get(fault.full_name):
                yield fault, other


def name_of(fault: Fault, checkpoint: str | None) -> str:
    return fault.full_name + (f"-{checkpoint}" if checkpoint else "")


@pytest.mark.parametrize(
    ("fault", "checkpoint"),
    [pytest.param(fault, checkpoint, id=name_of(fault, checkpoint)) for fault, checkpoint in cases()],
)
def test_exactly_the_planted_fault_is_found(
    fault: Fault, checkpoint: str | None, patients: dict[tuple[str, str], Patient]
) -> None:
    dtype = fault.dtypes[0]
    for name in [checkpoint] if checkpoint else SMALLEST_FIRST:
        strength = STRENGTH.get(fault.full_name, fault.strengths[-1])
        case = Case(True, fault.full_name, name, dtype, strength, 0, max(fault.tokens, 1024), fault.loss)
        said = plant(fault, patient(patients, name, dtype), case.strength, case.seed, case.tokens)
        if said is not None:
            break
    else:
        pytest.fail("the fault fits no checkpoint")
    scored = Scored(case, said)
    assert not said["crashed"]
    assert scored.caught
    assert scored.layer_right
    assert scored.cause_right
    assert scored.wrong == []


@pytest.mark.parametrize("lookalike", LOOKALIKES, ids=lambda one: one.name)
def test_a_lookalike_is_no_fault(lookalike: Lookalike, patients: dict[tuple[str, str], Patient]) -> None:
    slow = lookalike.name == "experts-batched"
    fitting = ("deepseek_v4", *SMALLEST_FIRST) if "hash" in lookalike.name else SMALLEST_FIRST
    for name in fitting:
        said = disguise(lookalike, patient(patients, name), 256 if slow else 1024, loss=not slow)
        if said is not None:
            break
    else:
        pytest.fail("the look-alike fits no checkpoint")
    assert (said["findings"], said["refused"], said["crashed"]) == ([], "", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_healthy_checkpoints_are_healthy(name: str, dtype: str, patients: dict[tuple[str, str], Patient]) -> None:
    said = disguise(HEALTHY, patient(patients, name, dtype), 1024, loss=dtype == "float32")
    assert said is not None
    assert (said["findings"], said["refused"], said["crashed"]) == ([], "", "")
