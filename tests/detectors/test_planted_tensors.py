"""Tensors of trained checkpoints that were made too large, zero, thin or coarse are found and named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moeprobe.detectors import flatness, hash_skew, low_precision, tensor_sizes
from moeprobe.pipeline import analyze

Tensors = dict[str, Tensor]
QWEN, DEEPSEEK = "model.layers.2.mlp", "model.layers.3"


def long_rows(tensors: Tensors) -> None:
    tensors[f"{QWEN}.gate.weight"][[3, 7]] *= 50


def one_direction(tensors: Tensors) -> None:
    gate = tensors[f"{QWEN}.gate.weight"]
    gate.copy_(torch.linspace(-1, 1, len(gate)).unsqueeze(1) @ gate[:1].float())


def four_bits(tensors: Tensors) -> None:
    gate = tensors[f"{QWEN}.gate.weight"]
    step = gate.float().abs().amax() / 7
    gate.copy_((gate / step).round() * step)


def zero_shared(tensors: Tensors) -> None:
    tensors[f"{QWEN}.shared_expert.down_proj.weight"].zero_()


def zero_expert(tensors: Tensors) -> None:
    tensors[f"{QWEN}.experts.5.down_proj.weight"].zero_()


def large_expert(tensors: Tensors) -> None:
    tensors[f"{QWEN}.experts.5.down_proj.weight"] *= 10


def skewed_table(tensors: Tensors) -> None:
    table = tensors["model.layers.1.ffn.gate.tid2eid"]
    table[: int(0.9 * len(table))] = torch.tensor([1, 5, 9, 3], dtype=table.dtype)


def large_shared(tensors: Tensors) -> None:
    tensors[f"{DEEPSEEK}.ffn.shared_experts.w2.weight"] *= 30


def small_gain(tensors: Tensors) -> None:
    tensors[f"{DEEPSEEK}.ffn_norm.weight"] *= 0.02


@pytest.mark.parametrize(
    ("plant", "cause", "layer", "experts", "named", "in_files"),
    [
        (long_rows, tensor_sizes.ROWS, 2, [3, 7], "the gate row of expert 3 is", True),
        (one_direction, flatness.LOW_RANK, 2, [], "only 1 of 15 directions", True),
        (four_bits, low_precision.FEW_LEVELS, 2, [], "of the gate matrix", True),
        (zero_shared, tensor_sizes.SHARED_LOST, 2, [], "shared_expert.down_proj.weight is zero", False),
        (zero_expert, tensor_sizes.EXPERT_ZERO, 2, [5], "down_proj of expert 5 is zero", False),
        (large_expert, tensor_sizes.EXPERT, 2, [5], "down_proj of expert 5 is", False),
        (skewed_table, hash_skew.SKEWED, 1, None, "expert", True),
        (large_shared, tensor_sizes.SHARED, 3, [], "shared_experts.down_proj.weight is", False),
        (small_gain, tensor_sizes.GAIN, 3, [], "model.layers.3.post_attention_layernorm.weight is", True),
    ],
)
def test_a_planted_tensor_is_named(
    plant: Callable[[Tensors], None],
    cause: str,
    layer: int,
    experts: list[int] | None,
    named: str,
    in_files: bool,
    tmp_path: Path,
    checkpoints: Path,
    bundled: Path,
) -> None:
    source = bundled if plant in (skewed_table, large_shared, small_gain) else checkpoints / "qwen2_moe"
    shutil.copytree(source, tmp_path / "m")
    file = tmp_path / "m/model.safetensors"
    tensors = load_file(file)
    plant(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    for weights_only in (True, False):
        options = {"weights_only": True} if weights_only else {"recipe": "quick", "max_tokens": 1024}
        found = [f for f in analyze(tmp_path / "m", **options).problems if f.cause == cause]
        if weights_only and not in_files:
            assert found == []
            continue
        (one,) = found
        assert one.layer == layer
        assert experts is None or one.experts == experts
        assert named in one.message
