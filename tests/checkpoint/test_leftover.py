"""Codes that nothing makes numbers of are refused before a weight is loaded; what the model has a place for is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moeprobe.checkpoint.load import load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.errors import CheckpointError
from tests.commandline import Moeprobe
from tests.quantised import block_fp8, mxfp4
from tests.streamed import opened
from tests.zoo.save import save
from tests.zoo.zoo import ZOO

CASES = {case.name: case for case in ZOO}
GATE = "model.layers.1.mlp.gate"
Tensors = dict[str, Tensor]


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """A Qwen3 MoE with its tensors changed by a function, and its config by a dict."""

    def alter(change: Callable[[Tensors], Any], case: str = "qwen3_moe", **config: Any) -> Path:
        folder = save(CASES[case], tmp_path / "altered", torch.bfloat16)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(written | config))
        return folder

    return alter


def fp8(*ends: str) -> Callable[[Tensors], None]:
    """All projections in fp8, as ModelOpt writes them, beside tensors of these ends."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if "_proj.weight" in name]:
            tensors[name] = (tensors[name].float() * 100).to(torch.float8_e4m3fn)
            tensors |= {f"{name.removesuffix('weight')}{end}": torch.tensor(0.01) for end in ends}

    return change


def beside(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(*shape, dtype=dtype)})


def packed_experts(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".experts." in name]:
        weight = tensors.pop(name)
        stem = name.removesuffix("weight")
        tensors[f"{stem}weight_packed"] = torch.zeros(weight.shape[0], weight.shape[1] // 8, dtype=torch.int32)
        tensors[f"{stem}weight_scale"] = torch.ones(weight.shape[0], 1, dtype=torch.bfloat16)


def integers(tensors: Tensors) -> None:
    tensors[f"{GATE}.weight"] = tensors[f"{GATE}.weight"].to(torch.int8)


def gptq(tensors: Tensors) -> None:
    weight = tensors.pop(f"{GATE}.weight")
    tensors[f"{GATE}.qweight"] = torch.zeros(weight.shape[1] // 8, weight.shape[0], dtype=torch.int32)
    tensors[f"{GATE}.scales"] = torch.ones(1, weight.shape[0], dtype=torch.float16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (fp8("weight_scale", "input_scale"), r"k_proj\.weight|weight_scale|is stored as F8_E4M3"),
        (fp8(), "is stored as F8_E4M3"),
        (fp8("scale"), "F8_E4M3|belongs to codes"),
        (packed_experts, r"weight_(packed|scale) belongs to codes"),
        (integers, "is stored as I8"),
        (gptq, "belongs to codes"),
        (beside(f"{GATE}.weight_scale", 1), "weight_scale belongs to codes"),
        (beside(f"{GATE}.weight_scale_inv", 1, 1), "weight_scale_inv belongs to codes"),
        (beside("model.layers.0.self_attn.q_proj.scale", 1), "scale belongs to codes"),
    ],
)
def test_codes_without_a_quantiser(altered: Callable[..., Path], change: Callable[[Tensors], None], says: str) -> None:
    folder = altered(change)
    with pytest.raises(CheckpointError, match=says) as refused:
        load_model(open_checkpoint(folder))
    assert "codes would be run as weights; use --weights-only" in str(refused.value)
    with pytest.raises(CheckpointError, match=says):
        opened(folder, False)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "quant_method 'modelopt'"),
        ({"quantization_config": {"quant_method": "something-new"}}, "quant_method 'something-new'"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "as MLX does"),
        ({"quantization_config": {"bits": 4, "group_size": 64, "mode": "affine"}}, "as MLX does"),
        ({"text_config": {"quantization_config": {"quant_method": "modelopt"}}}, "quant_method 'modelopt'"),
    ],
)
def test_a_method_that_transformers_does_not_have(
    moeprobe: Moeprobe, altered: Callable[..., Path], config: dict[str, Any], says: str
) -> None:
    folder = altered(fp8("weight_scale"), **config)
    for command in ("check", "routers"):
        done = moeprobe(command, folder)
        assert done.code == 2
        assert says in done.sentence
        assert "--weights-only" in done.sentence


def test_modelopt_without_a_word_in_the_config(altered: Callable[..., Path]) -> None:
    folder = altered(fp8("weight_scale"))
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(CheckpointError, match="ModelOpt"):
        load_model(open_checkpoint(folder))


@pytest.mark.parametrize(
    "change",
    [
        beside("model.layers.0.self_attn.k_scale", 1),
        beside("model.layers.0.layer_scale", 4),
        beside("model.layers.0.self_attn.other_proj.weight_scale", 1),
        beside("model.layers.0.self_attn.other_proj.weight", 4, 4, dtype=torch.int8),
    ],
)
def test_what_touches_no_weight_is_no_leftover(altered: Callable[..., Path], change: Callable[[Tensors], None]) -> None:
    load_model(open_checkpoint(altered(change)))


@pytest.mark.parametrize("case", ["gemma4", "deepseek_v4", "inkling2", "afmoe", "dots1"])
def test_scales_that_the_model_has_a_place_for(case: str, tmp_path: Path) -> None:
    load_model(open_checkpoint(save(CASES[case], tmp_path / "m", torch.bfloat16)))


def test_what_transformers_dequantises_is_loaded(tmp_path: Path) -> None:
    plain = save(CASES["deepseek_v3"], tmp_path / "plain", torch.bfloat16)
    load_model(open_checkpoint(block_fp8(plain, tmp_path / "a")))
    load_model(open_checkpoint(mxfp4(tmp_path / "b")))


@pytest.mark.parametrize(
    ("rename", "says"),
    [("weight_scale", "weight_scale belongs to codes that the quantiser passes over"), (None, "without a scale")],
)
def test_a_quantiser_that_passes_over_codes(rename: str | None, says: str, tmp_path: Path) -> None:
    """AutoFP8 calls its scales weight_scale; transformers' fp8 takes weight_scale_inv alone, and casts the codes."""
    folder = block_fp8(save(CASES["deepseek_v3"], tmp_path / "plain", torch.bfloat16), tmp_path / "fp8")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        scale = tensors.pop(name)
        if rename is not None:
            tensors[name.replace("weight_scale_inv", rename)] = scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=says):
        load_model(open_checkpoint(folder))
    with pytest.raises(CheckpointError, match=says):
        opened(folder, True)
