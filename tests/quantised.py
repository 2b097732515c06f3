"""Checkpoints in the quantised formats of the hub, made from random numbers: fp8 in blocks, and MXFP4."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

BLOCK = 12
"""Divides none of the tiny shapes, as 128 does not divide DeepSeek-V3's 576 rows."""
_FP8 = (".mlp.experts.", "_proj.weight", "kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj")


def block_fp8(source: Path, target: Path) -> Path:
    """The checkpoint ``source`` with all matrices of its layers in e4m3 and a scale for every block."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            (target / file.name).write_bytes(file.read_bytes())
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.ndim == 2 and name.startswith("model.layers.") and any(part in name for part in _FP8):
            tensors[name], tensors[f"{name}_scale_inv"] = quantise(tensor.float())
        else:
            tensors[name] = tensor
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    return target


def quantise(weight: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """e4m3 [rows, columns] and the factor of every block, [ceil(rows / block), ceil(columns / block)] float32."""
    rows, columns = (-(-size // block) for size in weight.shape)
    scales = torch.empty(rows, columns)
    codes = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    for row in range(rows):
        for column in range(columns):
            place = slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block)
            part = weight[place]
            scales[row, column] = part.abs().max().clamp_min(1e-6) / 448
            codes[place] = (part / scales[row, column]).to(torch.float8_e4m3fn)
    return codes, scales


def mxfp4(folder: Path) -> Path:
    """A tiny gpt-oss whose experts are packed: two numbers a byte, and an exponent for every 32 of them."""
    config = AutoConfig.for_model(
        "gpt_oss", vocab_size=320, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_local_experts=8,
        num_experts_per_tok=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, wide, outputs = tensors.pop(name).shape
        shape = (experts, outputs, wide // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(120, 124, shape, generator=generator, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router"]}
    (folder / "config.json").write_text(json.dumps(written))
    return folder
