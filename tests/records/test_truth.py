"""What a recording does to a model, and what it says of one that misbehaves; tests/zoo has the exactness."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import moeprobe
from moeprobe.errors import NotMoEError, RecordingError
from tests.families import FAMILIES, build
from tests.zoo.case import build as zoo_model
from tests.zoo.zoo import ZOO

Triples = dict[str, list[tuple[Tensor, Tensor]]]


@contextmanager
def wrapped_experts(model: nn.Module) -> Iterator[Triples]:
    """What every experts module is called with, by replacing its forward on the instance."""
    seen: Triples = {}
    wrapped = []
    for name, module in model.named_modules():
        if not name.endswith("experts") or "shared" in name:
            continue

        def forward(
            hidden: Tensor, index: Tensor, weights: Tensor, *, _name: str = name, _old=module.forward
        ) -> Tensor:
            seen.setdefault(_name, []).append((index.clone(), weights.clone()))
            return _old(hidden, index, weights)

        module.forward = forward
        wrapped.append(module)
    yield seen
    for module in wrapped:
        del module.forward


def batch(padding: str = "right") -> dict[str, Tensor]:
    ids = torch.randint(3, 120, (3, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, length in enumerate((24, 15, 7)):
        if padding == "right":
            mask[row, length:] = 0
        else:
            mask[row, : 24 - length] = 0
    return {"input_ids": ids, "attention_mask": mask}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_recording_changes_nothing_and_leaves_nothing(family: str) -> None:
    model = build(family)
    with torch.no_grad():
        before = model(**batch()).logits
        count = hooks(model)
        with moeprobe.record(model):
            during = model(**batch()).logits
    assert torch.equal(before, during)
    assert hooks(model) == count


def test_hooks_are_removed_after_an_exception() -> None:
    model = build("mixtral")
    count = hooks(model)
    recording = moeprobe.record(model)
    with pytest.raises(ZeroDivisionError), recording:
        raise ZeroDivisionError
    assert hooks(model) == count


def test_a_forward_pass_that_fails_leaves_no_half_record() -> None:
    model = build("mixtral")
    last = model.model.layers[-1].mlp.experts
    with moeprobe.record(model) as recording, torch.no_grad():
        last.forward = lambda *_: (_ for _ in ()).throw(RuntimeError("boom"))
        with pytest.raises(RuntimeError, match="boom"):
            model(**batch())
        del last.forward
        model(**batch())
    layers = [r.router.layer for r in recording.records]
    assert layers == [0, 0, 1]
    assert all(r.router.verified for r in recording.records)


def test_records_while_generating() -> None:
    model = build("qwen3_moe")
    inputs = batch("left")
    with wrapped_experts(model) as truth, moeprobe.record(model) as recording, torch.no_grad():
        model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)
    first = [r for r in recording.records if r.router.layer == 0]
    assert [r.tokens for r in first] == [46, 3, 3]
    given = truth["model.layers.0.mlp.experts"]
    assert torch.equal(first[1].experts, given[1][0].long())
    assert torch.equal(first[2].weights, given[2][1].float())
    assert first[1].positions.tolist() == [24, 24, 24]


def test_with_gradients() -> None:
    model = build("mixtral")
    with moeprobe.record(model) as recording:
        loss = model(**batch(), labels=batch()["input_ids"]).loss
    loss.backward()
    assert model.model.layers[0].mlp.gate.weight.grad is not None
    assert not any(r.weights.requires_grad or r.logits.requires_grad for r in recording.records)


@pytest.mark.parametrize("family", ["phimoe", "mixtral", "gemma4:text"])
def test_training_goes_on_as_without_us(family: str) -> None:
    """Some routers shake their input in place while training; running them again must not shake it again."""
    case = next(case for case in ZOO if case.name == family)
    losses, gradients = [], []
    for watched in (False, True):
        model = zoo_model(case).train()
        for name in ("router_jitter_noise", "input_jitter_noise", "jitter_noise"):
            for module in model.modules():
                if hasattr(module, name):
                    setattr(module, name, 0.1)
        ids = batch()["input_ids"]
        torch.manual_seed(0)
        with moeprobe.record(model) if watched else nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert all(module.training for module in model.modules())
    assert losses[0] == losses[1]
    assert torch.equal(gradients[0], gradients[1])


def test_experts_that_receive_something_else_are_not_verified() -> None:
    model = build("mixtral")
    block = model.model.layers[1].mlp

    def forward(hidden: Tensor) -> Tensor:
        flat = hidden.view(-1, hidden.shape[-1])
        _, weights, index = block.gate(flat)
        return block.experts(flat, (index + 1) % 8, weights).view_as(hidden)

    block.forward = forward
    with wrapped_experts(model) as truth, moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    record = recording.records[1]
    keep = batch()["attention_mask"].bool().reshape(-1)
    assert not record.router.verified
    assert "something else" in record.router.reason
    assert torch.equal(record.experts, truth["model.layers.1.mlp.experts"][0][0][keep])


def test_a_router_that_never_fires_is_said() -> None:
    model = build("mixtral")
    model.model.layers[0].mlp.forward = lambda hidden: hidden
    with moeprobe.record(model) as recording, torch.no_grad():
        model(**batch())
    assert "never fired" in recording.unread["model.layers.0.mlp.gate"]


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(NotMoEError, match="No router was found in Linear"):
        moeprobe.record(nn.Linear(2, 2))


def test_entering_twice_is_refused() -> None:
    recording = moeprobe.record(build("mixtral"))
    with recording, pytest.raises(RecordingError, match="already running"):
        recording.__enter__()


class Gate(nn.Module):
    """The gate of a tutorial: ``forward(x) -> (weights, indices)``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 32))
        self.bias = nn.Parameter(torch.zeros(16), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = nn.functional.softplus(x.float() @ self.weight.float().T).sqrt()
        indices = (scores + self.bias).topk(4, dim=-1)[1]
        weights = scores.gather(1, indices)
        return weights / weights.sum(dim=-1, keepdim=True) * 2.5, indices


def test_a_gate_on_its_own() -> None:
    torch.manual_seed(0)
    gate, x = Gate(), torch.randn(40, 32)
    with moeprobe.record(gate) as recording, torch.no_grad():
        weights, indices = gate(x)
    (record,) = recording.records
    assert torch.equal(record.experts, indices)
    assert torch.equal(record.weights, weights)
    assert record.logits is None
    assert record.router.score_function == "sqrtsoftplus"
    assert record.router.scaling_factor == pytest.approx(2.5, rel=1e-5)
    assert record.router.selection_bias is not None
