"""A streamed run that was interrupted goes on at its layer as if it had not been, whatever the layers hand on."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from moeprobe.findings.weights import ExpertWeights
from moeprobe.records.carried import UnkeptError, mappings, pack, unpack
from moeprobe.records.layer_stops import Handover
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.records.stream import StreamedProbe
from moeprobe.records.trail import Trail
from tests.streamed import differences, opened, token_batches
from tests.zoo.case import build
from tests.zoo.save import save, tokenizer
from tests.zoo.zoo import ZOO

CASES = {case.name: case for case in ZOO}
CPU = torch.device("cpu")


class InMemory:
    """A ``Keeper`` that writes nothing to the disk; ``stopped`` gives one that has only seen so many layers."""

    def __init__(self) -> None:
        self.layers = 0
        self.experts: dict[str, ExpertWeights] = {}
        self.folder = Path()
        self.kept: list[list[tuple[Any, Any, dict[str, torch.Tensor]]]] = []
        self.needed: list[set[int]] = []
        self.why: str | None = None

    def begin(self, recording: Recording) -> None:
        pass

    def handover(self, layer: int, batch: int) -> Handover:
        gave, shared, tensors = self.kept[layer][batch]
        there = layer in self.needed[self.layers - 1]
        return Handover(unpack(gave, tensors if there else None, CPU), unpack(shared, tensors, CPU) if there else {})

    def keep(
        self, layer: int, carried: Sequence[Handover], needed: Collection[int], experts: dict[str, ExpertWeights]
    ) -> None:
        self.experts |= experts
        assert all(one >= self.layers or one in self.needed[self.layers - 1] for one in needed)
        if layer < len(self.kept):
            return
        assert layer == len(self.kept)
        told = []
        for one in carried:
            tensors: dict[str, torch.Tensor] = {}
            told.append((pack(one.gave, "gave", tensors), pack(one.shared, "shared", tensors), tensors))
        self.kept.append(told)
        self.needed.append({*needed, layer})

    def give_up(self, why: str) -> None:
        self.why = why

    def stopped(self, layers: int) -> "InMemory":
        other = InMemory()
        other.layers, other.kept, other.needed = layers, self.kept[:layers], self.needed[:layers]
        return other


def records(folder: Path, by_expert: bool, keeper: InMemory) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    stream = opened(folder, by_expert)
    run = StreamedProbe(
        stream, token_batches(), lambda batch, record: found.setdefault(batch, []).append(record), keeper=keeper
    ).run()
    assert run.recording.failure is None
    return found


def unlike(folder: Path, by_expert: bool) -> list[str]:
    """Where runs that go on from each layer differ from the run that was not interrupted."""
    whole = InMemory()
    expected = records(folder, by_expert, whole)
    if whole.why is not None:
        return [whole.why]
    wrong = []
    for layers in range(1, len(whole.kept)):
        again = records(folder, by_expert, whole.stopped(layers))
        for batch, mine in expected.items():
            theirs = {record.router.path: record for record in again.get(batch, [])}
            left = [record for record in mine if record.router.path in theirs]
            if len(left) != len(theirs):
                wrong.append(f"from {layers}: other routers")
            wrong += [
                f"from {layers}, batch {batch}, {record.router.path}: {what}"
                for record in left
                for what in differences(record, theirs[record.router.path])
                if not what.startswith("router")
            ]
    return wrong


@pytest.mark.parametrize(
    "name",
    [
        "mixtral", "deepseek_v3", "deepseek_v4", "gpt_oss", "gemma4", "mistral_large4", "glm5_next", "zaya", "hy_v4",
        "glm_moe_dsa", "jamba", "qwen3_next", "nemotron_h", "kimi_linear", "minimax",
    ],
)  # fmt: skip
def test_families(name: str, tmp_path: Path) -> None:
    folder = save(CASES[name], tmp_path / "model", torch.bfloat16)
    assert not unlike(folder, by_expert=False)


def test_by_expert(tmp_path: Path) -> None:
    folder = save(CASES["deepseek_v3"], tmp_path / "model", torch.bfloat16)
    assert not unlike(folder, by_expert=True)


def test_what_layers_share_beside_the_hidden_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(CASES["gemma4:text"], torch.bfloat16).config
    config.num_hidden_layers, config.layer_types = 5, ["full_attention"] * 5
    config.num_kv_shared_layers = 2
    torch.manual_seed(1)
    type(build(CASES["gemma4:text"], torch.bfloat16))(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    assert not unlike(tmp_path / "model", by_expert=False)
    handover = InMemory.handover

    def forgetful(keeper: InMemory, layer: int, batch: int) -> Handover:
        return Handover(handover(keeper, layer, batch).gave, {})

    monkeypatch.setattr(InMemory, "handover", forgetful)
    with pytest.raises(AssertionError, match="failure"):
        unlike(tmp_path / "model", by_expert=False)


def walk(outside: Callable[[int, torch.Tensor, list[Any]], torch.Tensor]) -> list[set[int]]:
    """The layers whose outputs are needed after each of four layers, beside the last one's."""
    trail, found, held = Trail(), [], []
    with trail.outside():
        hidden = torch.ones(3)
        for layer in range(4):
            trail.enter({})
            hidden = hidden + 1
            trail.leave(layer, (hidden, None))
            hidden = outside(layer, hidden, held)
            trail.drop(layer)
            found.append(trail.needed - {layer})
    return found


def test_what_nothing_outside_of_the_layers_uses_is_not_needed() -> None:
    assert walk(lambda _layer, hidden, _held: hidden) == [set(), set(), set(), set()]


def test_what_the_model_holds_is_needed_until_it_lets_go() -> None:
    def skip(layer: int, hidden: torch.Tensor, held: list[Any]) -> torch.Tensor:
        if layer < 2:
            held.append(hidden[:1])
        if layer == 3:
            held.clear()
        return hidden

    # A view outside of a layer is a use of its output, which the model may remember in any other form.
    assert walk(skip) == [set(), {0}, {0, 1}, {0, 1}]

    def keep(layer: int, hidden: torch.Tensor, held: list[Any]) -> torch.Tensor:
        held[:] = [hidden] if layer == 1 else held if layer < 3 else []
        return hidden

    assert walk(keep) == [set(), set(), {1}, set()]


def test_what_was_computed_from_an_output_stands_for_it() -> None:
    def derived(layer: int, hidden: torch.Tensor, held: list[Any]) -> torch.Tensor:
        if layer == 1:
            held.append(hidden.sin())
        return hidden

    assert walk(derived) == [set(), set(), {1}, {1}]


def test_everything_that_a_layer_may_give() -> None:
    value = (
        torch.arange(6.0).reshape(2, 3).T,
        None,
        [1, True, "a"],
        {"k": torch.ones(2, dtype=torch.bfloat16), 3: 2.5},
    )
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(value, "x", tensors)))
    again = unpack(packed, tensors, CPU)
    assert torch.equal(again[0], value[0])
    assert again[0].stride() == value[0].stride()
    assert again[1:3] == value[1:3]
    assert again[3][3] == 2.5
    assert again[3]["k"].dtype == torch.bfloat16
    hollow = unpack(packed, None, CPU)
    assert hollow[0].shape == (3, 2)
    assert hollow[0].isnan().all()
    for strange in (object(), {"a": {1, 2}}):
        with pytest.raises(UnkeptError, match=r" (object|set)"):
            pack(strange, "x", {})
        with pytest.raises(UnkeptError, match=r" (object|set)"):
            mappings((strange,), {})
