"""Routers outside transformers are recorded as what their experts execute."""

import pytest
import torch
from torch import Tensor, nn

import moeprobe
from moeprobe import Record
from moeprobe.experiments.scale import multiplied
from moeprobe.routers.find import find_sites
from tests.routers.plain import (
    EXPERTS,
    HIDDEN,
    Block,
    Expert,
    GShardGate,
    NoisyTopKGate,
    ObjectGate,
    Padded,
    ReferenceGate,
    RemoteGate,
    dense,
)

GATES = {
    "reference sqrtsoftplus": ReferenceGate,
    "reference sigmoid": lambda: ReferenceGate("sigmoid"),
    "reference softmax": lambda: ReferenceGate("softmax"),
    "remote code": RemoteGate,
    "dataclass": ObjectGate,
    "noisy top-k": NoisyTopKGate,
    "GShard": GShardGate,
    "Switch": lambda: GShardGate(top_k=1),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def table(record: Record) -> Tensor:
    """Recorded weights [rows, experts]."""
    used = record.experts >= 0
    flat = torch.zeros(record.tokens, EXPERTS + 1)
    return flat.scatter(1, record.experts.where(used, torch.full_like(record.experts, EXPERTS)), record.weights)[
        :, :EXPERTS
    ]


@pytest.mark.parametrize("name", GATES)
def test_a_gate_on_its_own(name: str) -> None:
    gate, x = GATES[name](), torch.randn(40, HIDDEN)
    with moeprobe.record(gate) as recording, torch.no_grad():
        output = gate(x)
    (record,) = recording.records
    assert torch.equal(table(record), dense(output))


@pytest.mark.parametrize("name", GATES)
def test_a_block_of_separate_experts(name: str) -> None:
    block, x = Block(GATES[name]()), torch.randn(2, 20, HIDDEN)
    with moeprobe.record(block) as recording, torch.no_grad():
        block(x)
    (record,) = recording.records
    assert torch.equal(table(record), block.ran)
    (router,) = recording.routers
    assert router.verified, router.reason
    assert record.misplaced == 0


@pytest.mark.parametrize("name", GATES)
def test_a_shifted_dispatch_is_seen(name: str) -> None:
    block, x = Block(GATES[name]()), torch.randn(2, 20, HIDDEN)
    block.shift = 1
    with moeprobe.record(block) as recording, torch.no_grad():
        block(x)
    (router,) = recording.routers
    assert router.misdispatched
    assert "other rows" in router.reason
    assert recording.records[0].misplaced


def test_experts_that_are_filled_up_do_not_accuse() -> None:
    block, x = Padded(), torch.randn(30, HIDDEN)
    with moeprobe.record(block) as recording, torch.no_grad():
        block(x)
        _, combine, _ = block.gate(x)
    assert torch.equal(table(recording.records[0]), combine.sum(dim=-1))
    assert not recording.routers[0].misdispatched
    assert recording.records[0].misplaced is None


def test_a_table_in_the_reference_interface() -> None:
    gate = ReferenceGate(vocabulary=50)
    x, ids = torch.randn(40, HIDDEN), torch.randint(0, 50, (40,))
    with moeprobe.record(gate) as recording, torch.no_grad():
        weights, indices = gate(x, ids)
    (record,) = recording.records
    assert record.router.kind == "hash"
    assert torch.equal(record.experts, indices)
    assert torch.equal(record.weights, weights)
    assert record.token_ids is not None
    assert torch.equal(record.token_ids, ids)


def test_score_functions_are_measured() -> None:
    for function in ("softmax", "sigmoid", "sqrtsoftplus"):
        gate = ReferenceGate(function)
        with moeprobe.record(gate) as recording, torch.no_grad():
            gate(torch.randn(100, HIDDEN))
        (router,) = recording.routers
        assert router.score_function == function
        assert router.renormalised is (function != "softmax")
        assert router.scaling_factor == pytest.approx(1.5, rel=1e-4)
        assert router.selection_bias is not None
        assert router.selection_agreement == 1


class LinearGate(nn.Module):
    """A block that chooses for itself: its gate is a plain Linear, its choice never leaves the forward pass."""

    def __init__(self, function: str = "softmax", renormalise: bool = True, factor: float = 1.0) -> None:
        super().__init__()
        self.function, self.renormalise, self.factor = function, renormalise, factor
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        self.shared_expert = Expert()
        self.ran = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, HIDDEN)
        logits = self.gate(flat)
        scores = logits.float().softmax(dim=-1) if self.function == "softmax" else logits.float().sigmoid()
        weights, chosen = scores.topk(2, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = (weights * self.factor).to(x.dtype)
        self.ran = torch.zeros(flat.shape[0], EXPERTS).scatter(1, chosen, weights.detach().float())
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, slot = (chosen == index).nonzero(as_tuple=True)
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, slot, None])
        return (out + self.shared_expert(flat)).reshape(x.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_a_block_that_chooses_for_itself(function: str, renormalise: bool, dtype: torch.dtype) -> None:
    block = LinearGate(function, renormalise).to(dtype)
    x = torch.randn(2, 40, HIDDEN).to(dtype)
    x[1, 20:] = x[1, 19]  # equal rows, such as padding
    with moeprobe.record(block) as recording, torch.no_grad():
        block(x)
    (router,) = recording.routers
    assert router.verified, router.reason
    assert torch.equal(table(recording.records[0]), block.ran)
    assert router.shared_experts == "shared_expert"


def test_what_does_not_show_its_rule_is_said() -> None:
    block = LinearGate()
    block.experts[3].register_forward_hook(lambda _m, _a, out: out + 1)
    with moeprobe.record(block) as recording, torch.no_grad():
        block.forward = lambda x: LinearGate.forward(block, x).tanh()
        block(torch.randn(20, HIDDEN))
    assert not recording.records
    assert "does not show which experts were chosen" in recording.unread["gate"]


def test_dropped_tokens_are_unused_slots() -> None:
    block, x = Block(GShardGate(capacity=2)), torch.randn(40, HIDDEN)
    with moeprobe.record(block) as recording, torch.no_grad():
        block(x)
    (record,) = recording.records
    assert bool((record.experts == -1).all(dim=-1).any())
    assert bool((record.weights[record.experts == -1] == 0).all())
    assert torch.equal(table(record), block.ran)


@pytest.mark.parametrize("name", GATES)
def test_the_routed_branch_of_a_list_of_experts_can_be_scaled(name: str) -> None:
    block, x = Block(GATES[name]()), torch.randn(2, 20, HIDDEN)
    with torch.no_grad():
        plain = block(x)
        with multiplied(find_sites(block), 2.0):
            doubled = block(x)
    assert torch.equal(doubled, 2 * plain)


def test_lists_of_experts_by_another_name() -> None:
    class Other(Block):
        def __init__(self) -> None:
            super().__init__(RemoteGate())
            self.ffn_experts = self.experts
            self.router = self.gate
            del self.gate, self.experts

        def forward(self, x: Tensor) -> Tensor:
            self.__dict__ |= {"gate": self.router, "experts": self.ffn_experts}
            return super().forward(x)

    block = Other()
    with moeprobe.record(block) as recording, torch.no_grad():
        block(torch.randn(2, 20, HIDDEN))
    (router,) = recording.routers
    assert (router.path, router.experts, router.verified) == ("router", EXPERTS, True)
    assert torch.equal(table(recording.records[0]), block.ran)
