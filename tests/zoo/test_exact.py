"""Every family: what moeprobe records is what the experts execute, bit for bit."""

import inspect

import pytest
import torch
from torch import nn

import moeprobe
from tests.zoo.case import Case, batch, build
from tests.zoo.compare import arguments, differences, kept, recorded
from tests.zoo.zoo import ZOO

MISDISPATCHED = {"nllb_moe"}
"""transformers 5.23.0 executes other experts than the router chose; moeprobe must say so."""

cases = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_records_are_the_truth(case: Case, dtype: torch.dtype) -> None:
    model = build(case, dtype)
    for padding in ("right", "left"):
        recording, truth, unlike = recorded(case, model, padding)
        assert not unlike
        assert len(truth) == case.sites
        assert len(recording.unread) == case.silent, recording.unread
        reasons = {router.path: router.reason for router in recording.routers if not router.verified}
        if case.name in MISDISPATCHED:
            assert len(reasons) == case.sites
            assert all("executed other rows" in reason for reason in reasons.values())
            assert all(record.misplaced for record in recording.records)
        else:
            assert not reasons


@cases
def test_gradients_and_inference_mode(case: Case) -> None:
    model = build(case)
    ids, mask = batch()
    for mode in (torch.enable_grad, torch.inference_mode):
        with case.truth(model) as truth, moeprobe.record(model) as recording, mode():
            model(**arguments(case, model, ids, mask))
        assert not differences(recording, truth, kept(case, truth, ids, mask))
        assert not any(r.weights.requires_grad for r in recording.records)


@pytest.mark.parametrize("case", [case for case in ZOO if case.backends], ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_every_experts_implementation(case: Case, implementation: str) -> None:
    model = build(case)
    model.set_experts_implementation(implementation)
    recording, _, unlike = recorded(case, model)
    assert not unlike
    assert all(router.verified for router in recording.routers)


@pytest.mark.parametrize("case", [case for case in ZOO if case.generates], ids=lambda case: case.name)
def test_while_generating(case: Case) -> None:
    model = build(case)
    ids, mask = batch("left")
    given = arguments(case, model, ids, mask)
    if "decoder_input_ids" in given:
        # The decoder begins with its start token alone.
        del given["decoder_input_ids"]
    with case.truth(model) as truth, moeprobe.record(model) as recording, torch.no_grad():
        model.generate(**given, max_new_tokens=3, do_sample=False)
    assert truth
    assert max(len(calls) for calls in truth.values()) == 3
    assert not differences(recording, truth, kept(case, truth, ids, mask))


def test_a_difference_would_be_seen() -> None:
    case = next(case for case in ZOO if case.name == "mixtral")
    model = build(case)
    ids, mask = batch()
    recording, truth, _ = recorded(case, model)
    first = next(iter(truth.values()))[0]
    first.weights[0] *= 1 + 2**-20
    assert differences(recording, truth, kept(case, truth, ids, mask))


def test_the_truth_uses_no_hook() -> None:
    for case in ZOO:
        source = inspect.getsource(inspect.unwrap(case.truth))
        assert "hook" not in source.replace("no hook", "")


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@cases
def test_recording_leaves_nothing_behind(case: Case) -> None:
    model = build(case)
    with torch.no_grad():
        # transformers may leave hooks of its own after the first call.
        model(**arguments(case, model, *batch()))
    count = hooks(model)
    recorded(case, model)
    assert hooks(model) == count
