"""The experts' tensors: layouts, duplicates, and the tie between gate rows and experts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moeprobe.routers.arrangement import Arrangement
from moeprobe.routers.coupling import Coupling
from moeprobe.routers.duplicates import Gram, identical, nearest
from moeprobe.routers.experts import expert_tensors


def stacked(experts: int = 8, neurons: int = 12, hidden: int = 16, dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = nn.Module()
    shapes = {"gate_up_proj": (experts, 2 * neurons, hidden), "down_proj": (experts, hidden, neurons)}
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
    return module


def read(experts: nn.Module | None, count: int = 8) -> dict[str, list[Tensor]]:
    site: Any = SimpleNamespace(experts=experts)
    return expert_tensors(site, count)


def each(tensors: dict[str, list[Tensor]]) -> list[dict[str, Tensor]]:
    count = len(next(iter(tensors.values())))
    return [{name: views[expert] for name, views in tensors.items()} for expert in range(count)]


def expert_gram(tensors: dict[str, list[Tensor]]) -> Tensor:
    gram = Gram(lasting=True)
    for expert in each(tensors):
        gram.add(expert)
    return gram.value()


def groups(tensors: dict[str, list[Tensor]]) -> list[list[int]]:
    experts = each(tensors)
    return identical(
        expert_gram(tensors),
        lambda one, two: all(torch.equal(experts[one][name], experts[two][name]) for name in tensors),
    )


def coupling(tensors: dict[str, list[Tensor]], gate: Tensor) -> float | None:
    found = Coupling(gate)
    for number, expert in enumerate(each(tensors)):
        found.add(number, expert)
    return found.value()


def test_stacked_and_listed_experts_read_the_same_and_nothing_is_copied() -> None:
    module = stacked()
    found = read(module)
    assert {name: len(views) for name, views in found.items()} == {"gate_up_proj": 8, "down_proj": 8}
    assert found["down_proj"][3].data_ptr() == module.down_proj[3].data_ptr()
    listed = nn.ModuleList(nn.Linear(16, 12) for _ in range(8))
    assert set(read(listed)) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("experts", "reason"),
    [
        (None, "no experts module"),
        (nn.Module(), "hold no parameters"),
        (nn.Linear(16, 12), "not laid out by expert"),
        (stacked(dtype=torch.float8_e4m3fn), "quantised"),
        (stacked().to("meta"), "not in memory"),
    ],
)
def test_unreadable(experts: nn.Module | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("large", [False, True])
def test_duplicates(dtype: torch.dtype, large: bool) -> None:
    module = stacked(6, 500 if large else 12, 400 if large else 16, dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[4] = parameter[1]
            parameter[5] = parameter[0] + 0.02 * torch.randn(parameter[0].shape)
        module.down_proj[2] = module.down_proj[3]
    tensors = read(module, 6)
    gram = expert_gram(tensors)
    assert groups(tensors) == [[1, 4]]
    near, cosine = nearest(gram)
    assert (near[1], near[0]) == (4, 5)
    assert cosine[1] == pytest.approx(1, abs=1e-5)
    assert 0.999 < cosine[0] < 0.99995
    assert cosine[2] < 0.6


def test_one_bit_is_not_identical() -> None:
    module = stacked()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[1] = parameter[0]
        module.down_proj[1, 0, 0] += 1e-6
    assert groups(read(module)) == []


def test_zero_experts_are_identical_and_near_nobody() -> None:
    module = stacked()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[2:4] = 0
    gram = expert_gram(read(module))
    assert groups(read(module)) == [[2, 3]]
    assert nearest(gram)[1][2] == 0


def test_coupling_of_unrelated_gates_is_standard_normal() -> None:
    tensors = read(stacked(16, 12, 32), 16)
    generator = torch.Generator().manual_seed(1)
    seen = np.array([coupling(tensors, torch.randn(16, 32, generator=generator)) for _ in range(300)])
    assert abs(seen.mean()) < 0.25
    assert 0.8 < seen.std() < 1.2
    assert seen.max() < 5


@pytest.mark.parametrize("transposed", [False, True])
def test_coupling_sees_the_tie_and_its_loss(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    gate = torch.randn(16, 32, generator=generator)
    inputs = torch.randn(16, 24, 32, generator=generator)
    inputs += 0.2 * gate.unsqueeze(1) * torch.rand(16, 24, 1, generator=generator)
    tensors = {"gate_up_proj": [m.T if transposed else m for m in inputs]}
    tied, lost = coupling(tensors, gate), coupling(tensors, gate[torch.randperm(16, generator=generator)])
    assert tied is not None
    assert lost is not None
    assert tied > 6
    assert abs(lost) < 3


def gpt_oss_like(gate: Tensor, neurons: int) -> dict[str, list[Tensor]]:
    """[experts, hidden, 2 x neurons] with gate and up neurons in turn; the gate's are tied in energy and mean."""
    generator = torch.Generator().manual_seed(4)
    count, hidden = gate.shape
    inputs = torch.randn(count, hidden, 2 * neurons, generator=generator)
    inputs[:, :, ::2] += 0.4 * gate.unsqueeze(-1) * (1 + torch.rand(count, 1, neurons, generator=generator))
    back = torch.randn(count, neurons, hidden, generator=generator)
    return {"gate_up_proj": list(inputs), "down_proj": list(back)}


@pytest.mark.parametrize("known", [None, Arrangement(transposed=True, interleaved=True)])
def test_a_square_matrix_is_not_turned(known: Arrangement | None) -> None:
    """hidden = 2 x intermediate, as in gpt-oss: the module says how it lies, or the way back does."""
    gate = torch.randn(12, 32, generator=torch.Generator().manual_seed(3))
    tensors = gpt_oss_like(gate, 16)
    right, wrong = Coupling(gate, known), Coupling(gate, Arrangement(transposed=False))
    for number, expert in enumerate(each(tensors)):
        right.add(number, expert)
        wrong.add(number, expert)
    assert right.value() > 6
    assert wrong.value() < 4


@pytest.mark.parametrize("neurons", [8, 300, 1024])
def test_neurons_in_turn_are_both_met(neurons: int) -> None:
    """Every other neuron of a large expert would be those of the gate alone."""
    gate = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))
    tensors = gpt_oss_like(gate, neurons)
    found = []
    for part in (0, 1):
        only = [view.clone() for view in tensors["gate_up_proj"]]
        for view in only:
            view[:, part::2] = 0
        one = Coupling(gate, Arrangement(transposed=True, interleaved=True))
        for number, view in enumerate(only):
            one.add(number, {"gate_up_proj": view})
        found.append(one.tie()[0])
    assert all(tie is not None and tie.energy is not None for tie in found)
    assert [tie.mean is None for tie in found] == [True, False]


def test_why_there_is_no_coupling() -> None:
    gate = torch.randn(8, 16)
    square = {"gate_proj.weight": [torch.randn(16, 16) for _ in range(8)]}
    one = Coupling(gate)
    assert one.tie() == (None, "no expert was read")
    one.add(0, {name: views[0] for name, views in square.items()})
    assert one.tie()[0] is None
    assert one.tie()[1].startswith("both dimensions of the experts' matrices are 16")
    broken = Coupling(gate)
    for number in range(8):
        broken.add(number, {"gate_up_proj": torch.full((24, 16), float("nan"))})
    assert broken.tie() == (None, "weights of the experts are not finite, or too large to multiply")


def test_coupling_is_not_known_without_input_matrices() -> None:
    gate = torch.randn(8, 16)
    assert coupling({"down_proj": list(torch.randn(8, 16, 12))}, gate) is None
    assert coupling({"gate_up_proj": list(torch.randn(8, 24, 10))}, gate) is None
    assert coupling({"gate_up_proj": [torch.ones(24, 16)] * 8}, gate) is None
