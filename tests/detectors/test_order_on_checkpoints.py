"""Gates that stand beside the wrong experts are found by the weights alone, and nothing is said of sound models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import moeprobe
from benchmarks.patient import CHECKPOINTS, Patient
from moeprobe.detectors.permuted_experts import PERMUTED, SWAPPED, UNTIED
from moeprobe.findings.result import Result
from moeprobe.recipe import ChoiceRecipe, ProbeRecipe, Recipe, ScaleRecipe
from moeprobe.records.budget import Budget

FEW = Recipe(
    name="test",
    select=["permuted-experts", "untrained-gate"],
    probe=ProbeRecipe(max_tokens=256, max_length=64),
    scale=ScaleRecipe(max_tokens=0),
    choice=ChoiceRecipe(max_tokens=0),
)


@pytest.fixture(scope="module")
def patients() -> dict[str, Patient]:
    return {name: Patient(name, "float32") for name in CHECKPOINTS}


def said(patient: Patient, plant: Callable[[Patient], None] = lambda _: None) -> tuple[Result, list[tuple]]:
    with patient.damaged():
        plant(patient)
        result = moeprobe.analyze(patient.model, tokenizer=patient.tokenizer, recipe=FEW)
    return result, [(found.layer, found.cause) for found in result.findings if found.severity != "info"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_sound_models_are_silent(name: str, patients: dict[str, Patient]) -> None:
    result, found = said(patients[name])
    assert found == []
    ties = [one.experts.tie for one in result.evidence.routers if one.router.kind == "top-k"]
    assert all(tie is not None and tie.value > 3 for tie in ties)
    assert all(one.experts.foreign is None for one in result.evidence.routers)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "deepseek_v4"])
def test_experts_renumbered_with_their_rows_are_silent(name: str, patients: dict[str, Patient]) -> None:
    def renumber(patient: Patient) -> None:
        for site in patient.sites:
            order = torch.randperm(site.count, generator=torch.Generator().manual_seed(1))
            site.weight.copy_(site.weight[order].clone())
            for tensor in site.experts.parameters():
                tensor.copy_(tensor[order].clone())
            if site.bias is not None:
                site.bias.copy_(site.bias[order].clone())
            if site.table is not None:
                site.table.copy_(order.argsort()[site.table])

    before, _ = said(patients[name])
    result, found = said(patients[name], renumber)
    assert found == []
    for one, other in zip(before.evidence.routers, result.evidence.routers, strict=True):
        if one.router.kind == "top-k":
            assert other.experts.coupling == pytest.approx(one.experts.coupling, rel=1e-3)
            assert other.experts.tie.lead == pytest.approx(one.experts.tie.lead, rel=1e-3)


def permuted(layer: int, order: Callable[[int], Tensor]) -> Callable[[Patient], None]:
    def plant(patient: Patient) -> None:
        (site,) = [site for site in patient.sites if site.layer == layer]
        site.weight.copy_(site.weight[order(site.count)].clone())

    return plant


def shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def rolled(count: int) -> Tensor:
    return torch.arange(count).roll(1)


@pytest.mark.parametrize("order", [shuffled, rolled])
@pytest.mark.parametrize(
    ("name", "layer", "causes"),
    [
        ("qwen3_moe", 0, {PERMUTED}),
        ("qwen2_moe", 0, {PERMUTED}),
        ("mixtral", 0, {PERMUTED}),
        ("deepseek_v4", 5, {PERMUTED}),
        ("deepseek_v4", 3, {UNTIED}),
        ("qwen2_moe", 2, {UNTIED}),
        ("qwen3_moe", 1, {UNTIED}),
    ],
)
def test_moved_rows(name: str, layer: int, causes: set, order: Callable, patients: dict[str, Patient]) -> None:
    result, found = said(patients[name], permuted(layer, order))
    assert [where for where, _ in found] == [layer]
    assert {cause for _, cause in found} == causes
    (one,) = [one for one in result.evidence.routers if one.router.layer == layer]
    assert one.experts.tie.value < 3
    if causes == {PERMUTED}:
        sure = [row for row, gap in enumerate(one.experts.tie.gap) if gap >= 3]
        assert sure
        assert all(one.experts.tie.owner[row] == order(one.router.experts)[row] for row in sure)


def test_half_of_the_rows(patients: dict[str, Patient]) -> None:
    def half(count: int) -> Tensor:
        order = torch.arange(count)
        order[::2] = order[::2].roll(1)
        return order

    _, found = said(patients["qwen3_moe"], permuted(0, half))
    assert found == [(0, PERMUTED)]


@pytest.mark.parametrize(("name", "one", "other"), [("qwen3_moe", 1, 3), ("qwen2_moe", 0, 3), ("deepseek_v4", 2, 4)])
def test_swapped_gates(name: str, one: int, other: int, patients: dict[str, Patient]) -> None:
    def swap(patient: Patient) -> None:
        first, second = (site for site in patient.sites if site.layer in (one, other))
        kept = first.weight.clone()
        first.weight.copy_(second.weight)
        second.weight.copy_(kept)

    result, found = said(patients[name], swap)
    assert sorted(found) == [(one, SWAPPED), (other, SWAPPED)]
    paths = {site.layer: site.gate.router.path for site in patients[name].sites}
    named = {router.router.layer: router.experts.foreign for router in result.evidence.routers}
    assert {layer: tie.router for layer, tie in named.items() if tie} == {one: paths[other], other: paths[one]}


def test_a_random_gate_is_not_called_untrained_without_the_loss(patients: dict[str, Patient]) -> None:
    def redraw(patient: Patient) -> None:
        (site,) = [site for site in patient.sites if site.layer == 2]
        site.weight.copy_(0.1 * torch.randn(site.weight.shape, generator=torch.Generator().manual_seed(3)))

    result, found = said(patients["qwen2_moe"], redraw)
    assert found == [(2, UNTIED)]
    (check,) = [c for c in result.checks if c.detector == "untrained-gate" and ".2." in (c.router or "")]
    assert check.verdict == "skipped"
    assert check.reason.startswith("not decided: ")


def test_streamed_as_in_memory(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped gates send the second look to the disk, by layer or by expert."""
    folder = tmp_path / "swapped"
    shutil.copytree(checkpoints / "qwen3_moe", folder)
    tensors = load_file(folder / "model.safetensors")
    first, second = (f"model.layers.{layer}.mlp.gate.weight" for layer in (1, 3))
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def analysed(stream: bool) -> Result:
        return moeprobe.analyze(folder, recipe=FEW, stream=stream)

    whole, by_layer = analysed(False), analysed(True)
    monkeypatch.setattr(Budget, "by_expert", lambda *_: True)
    by_expert = analysed(True)
    assert (by_layer.environment.streamed, by_expert.environment.streamed) == ("layer", "expert")
    assert [one.experts.foreign is not None for one in whole.evidence.routers] == [False, True, False, True]
    assert by_layer.evidence.routers == whole.evidence.routers == by_expert.evidence.routers
    assert json.loads(by_layer.model_dump_json())["findings"] == json.loads(whole.model_dump_json())["findings"]
