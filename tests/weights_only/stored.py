"""Write a checkpoint of given tensors and no others, sharded as asked: the files that ``--weights-only`` reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.zoo.case import build
from tests.zoo.save import tokenizer
from tests.zoo.zoo import ZOO

Tensors = dict[str, Tensor]
Config = dict[str, Any]


def write(folder: Path, config: dict[str, Any], shards: list[dict[str, Tensor]]) -> Path:
    """A checkpoint in hub layout: config.json, an index, and one file a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    size = sum(tensor.nbytes for tensors in shards for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


KIMI: dict[str, Any] = {
    "model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], "num_experts_per_tok": 2,
    "n_routed_experts": 8, "hidden_size": 1024, "num_hidden_layers": 4, "scoring_func": "sigmoid", "n_group": 1,
    "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "vocab_size": 64,
    "torch_dtype": "bfloat16", "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
}  # fmt: skip
"""A model type that transformers does not have, with the names of DeepSeek-V3."""


def kimi(layers: int = 4, hidden: int = 1024, experts: int = 8, width: int = 64) -> list[dict[str, Tensor]]:
    """One shard a layer, the first of them dense, with an embedding before and a head behind."""
    torch.manual_seed(0)
    shards = [{"model.embed_tokens.weight": torch.zeros(64, hidden, dtype=torch.bfloat16)}]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        held = {
            f"{at}.self_attn.q_proj.weight": torch.zeros(hidden, hidden, dtype=torch.bfloat16),
            f"{at}.input_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
            f"{at}.post_attention_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        }
        if layer:
            held[f"{at}.mlp.gate.weight"] = torch.randn(experts, hidden).bfloat16()
            held[f"{at}.mlp.gate.e_score_correction_bias"] = 5 + 0.1 * torch.randn(experts)
            for expert in range(experts):
                for part in ("gate_proj", "up_proj"):
                    held[f"{at}.mlp.experts.{expert}.{part}.weight"] = torch.zeros(width, hidden)
                held[f"{at}.mlp.experts.{expert}.down_proj.weight"] = torch.zeros(hidden, width)
        shards.append(held)
    shards.append({"lm_head.weight": torch.zeros(64, hidden, dtype=torch.bfloat16)})
    return shards


def saved(name: str, folder: Path) -> Path:
    """A family of the zoo in the layout of the hub."""
    model: Any = build(next(case for case in ZOO if case.name == name))
    model.save_pretrained(folder, save_original_format=True)
    tokenizer().save_pretrained(folder)
    return folder


def change(folder: Path, plant: Callable[[Tensors, Config], object]) -> Path:
    """Change the only weight file and the config of a checkpoint."""
    file, config = folder / "model.safetensors", folder / "config.json"
    tensors, values = load_file(file), json.loads(config.read_text())
    plant(tensors, values)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    config.write_text(json.dumps(values))
    return folder
