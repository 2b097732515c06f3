"""Models that PEFT has wrapped: the routers that act, each once, under their own paths, and judged by what acts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import moeprobe
from moeprobe.pipeline import analyze
from moeprobe.records.recorder import Recording
from tests.families import build as build_family
from tests.zoo.case import build as build_case
from tests.zoo.zoo import ZOO

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "olmoe", "jamba"]
ATTENTION = ["q_proj", "q_b_proj"]


def build(family: str) -> nn.Module:
    if family == "jamba":
        return build_case(next(case for case in ZOO if case.name == family))
    return build_family(family)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def recorded(model: nn.Module) -> Recording:
    with moeprobe.record(model, keep_inputs=True) as recording, torch.no_grad():
        model(**batch())
    return recording


def trained(model: nn.Module) -> nn.Module:
    """The adapters as training leaves them: adding something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
            elif "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def lora(targets: list[str], parameters: list[str] | None = None, **options: Any) -> Any:
    return peft.LoraConfig(r=4, target_modules=targets, target_parameters=parameters, **options)


def gate_name(model: nn.Module) -> str:
    return str(recorded(model).records[0].router.path).rpartition(".")[2]


def assert_true(seen: Recording, plain: Recording) -> None:
    assert [one.router.path for one in seen.records] == [one.router.path for one in plain.records]
    assert [one.router.module for one in seen.records] == [one.router.module for one in plain.records]
    ids, mask = batch().values()
    for one in seen.records:
        assert one.router.verified, one.router.reason
        assert one.token_ids is not None
        assert torch.equal(one.token_ids, ids[mask.bool()])
        assert one.positions.tolist() == [*range(12), *range(8)]
        assert one.inputs is not None
        assert one.logits is not None
        again = one.gate.logits(one.inputs)
        assert again is not None
        torch.testing.assert_close(again, one.logits, atol=1e-4, rtol=1e-4)
    assert seen.unread == {}


def on_attention(model: nn.Module, _gate: str) -> nn.Module:
    return peft.get_peft_model(model, lora(ATTENTION))


def on_gate(model: nn.Module, gate: str) -> nn.Module:
    return peft.get_peft_model(model, lora([], [f"{gate}.weight"]))


def gate_copied(model: nn.Module, gate: str) -> nn.Module:
    return peft.get_peft_model(model, lora(ATTENTION, modules_to_save=[gate]))


def two_copies(model: nn.Module, gate: str) -> nn.Module:
    wrapped = gate_copied(model, gate)
    wrapped.add_adapter("second", lora(ATTENTION, modules_to_save=[gate]))
    wrapped.set_adapter("second")
    return wrapped


def on_experts(model: nn.Module, _gate: str) -> nn.Module:
    return peft.get_peft_model(model, lora([], ["experts.gate_up_proj", "experts.down_proj"]))


def nested(model: nn.Module, gate: str) -> nn.Module:
    return peft.get_peft_model(on_attention(model, gate), lora(["o_proj"]))


def prompted(model: nn.Module, _gate: str) -> nn.Module:
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "adapt",
    [on_attention, on_gate, gate_copied, two_copies, on_experts, nested, prompted],
    ids=lambda made: made.__name__,
)
def test_every_router_once_and_as_it_acts(family: str, adapt: Callable[[nn.Module, str], nn.Module]) -> None:
    plain = recorded(build(family))
    wrapped = trained(adapt(build(family), plain.records[0].router.path.rpartition(".")[2]))
    assert_true(recorded(wrapped), plain)


def test_adapters_that_are_off_merged_or_unloaded() -> None:
    plain = recorded(build("mixtral"))
    wrapped = trained(on_gate(build("mixtral"), "gate"))
    acting = recorded(wrapped)
    with wrapped.disable_adapter():
        off = recorded(wrapped)
    assert_true(off, plain)
    assert all(torch.equal(one.experts, two.experts) for one, two in zip(off.records, plain.records, strict=True))
    assert any(not torch.equal(one.experts, two.experts) for one, two in zip(off.records, acting.records, strict=True))
    wrapped.merge_adapter()
    assert_true(recorded(wrapped), plain)
    assert_true(recorded(wrapped.merge_and_unload()), plain)


@pytest.mark.parametrize(
    ("family", "target", "dora"),
    [("hunyuan_v1_moe", "gate.wg", False), ("hunyuan_v1_moe", "gate.wg", True), ("afmoe", "router.gate", False)],
)
def test_a_linear_layer_inside_the_router(family: str, target: str, dora: bool) -> None:
    case = next(case for case in ZOO if case.name == family)
    plain = recorded(build_case(case))
    wrapped = trained(peft.get_peft_model(build_case(case), lora([target], use_dora=dora)))
    assert_true(recorded(wrapped), plain)
    base = plain.records[0].gate.weight
    acting = recorded(wrapped).records[0].gate.weight
    assert base is not None
    assert acting is not None
    assert float((base - acting).norm() / base.norm()) > 0.05


def test_the_copy_that_is_active_is_the_router() -> None:
    wrapped = trained(gate_copied(build("mixtral"), "gate"))
    gate = wrapped.base_model.model.model.layers[0].mlp.gate
    weight = recorded(wrapped).records[0].gate.weight
    assert weight is not None
    assert torch.equal(weight, gate.modules_to_save["default"].weight)
    with wrapped.disable_adapter():
        weight = recorded(wrapped).records[0].gate.weight
    assert weight is not None
    assert torch.equal(weight, gate.original_module.weight)


def test_generating_counts_every_pass() -> None:
    ids = batch()["input_ids"]
    wrapped = trained(on_attention(build("mixtral"), "gate"))
    with moeprobe.record(wrapped) as recording, torch.no_grad():
        wrapped.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert len(recording.records) == 6
    assert all(router.verified for router in recording.routers)


@pytest.mark.parametrize("adapt", [on_attention, on_experts, gate_copied, prompted], ids=lambda made: made.__name__)
def test_analyze(checkpoints: Path, adapt: Callable[[nn.Module, str], nn.Module]) -> None:
    folder = checkpoints / "mixtral"
    model = adapt(AutoModelForCausalLM.from_pretrained(folder), "gate")
    result = analyze(model, tokenizer=AutoTokenizer.from_pretrained(folder), recipe="quick", max_tokens=1500)
    assert result.problems == []
    assert result.model.architecture == "MixtralForCausalLM"
    assert [one.router.path for one in result.evidence.routers] == [f"model.layers.{i}.mlp.gate" for i in range(4)]
    assert all(one.router.verified for one in result.evidence.routers)
    reasons = {check.reason for check in result.checks if check.detector == "duplicate-experts"}
    if adapt is on_experts:
        assert reasons == {"an adapter changes the experts' weights; merge it (merge_and_unload) to have them judged"}
