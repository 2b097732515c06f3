"""Dtypes, single experts and factors: what cannot be what its name says is never judged around in silence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moeprobe.errors import IncompleteError
from moeprobe.findings.verdict import decide
from moeprobe.pipeline import analyze
from moeprobe.weights_scan import scan
from tests.weights_only.stored import KIMI, Config, Tensors, change, kimi, saved, write

BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
UNKNOWN = KIMI | {"hidden_size": 256, "first_k_dense_replace": 1, "moe_layer_freq": 1, "topk_method": "noaux_tc"}


def _first(tensors: Tensors, part: str) -> str:
    return next(name for name in tensors if part in name)


def _as(part: str, made: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Config], None]:
    def plant(tensors: Tensors, _: Config) -> None:
        name = _first(tensors, part)
        tensors[name] = made(tensors[name])

    return plant


@pytest.mark.parametrize(
    ("family", "plant", "words"),
    [
        ("qwen3_moe", _as("1.mlp.gate.weight", lambda t: (1000 * t).long()), "stored as I64"),
        ("deepseek_v3", _as(BIAS, lambda t: (100 * t).long()), "stored as I64"),
        ("deepseek_v3", _as(BIAS, lambda t: t > 0), "stored as BOOL"),
        ("mixtral", _as("block_sparse_moe.gate", lambda t: t.to(torch.complex64)), "stored as C64"),
        ("deepseek_v4", _as("tid2eid", lambda t: t.float()), "stored as F32, and the model has whole numbers"),
        ("deepseek_v4", _as("tid2eid", lambda t: t > 0), "stored as BOOL"),
        ("qwen3_moe", _as("1.mlp.experts.3.up_proj", lambda t: t.T), "7 of its siblings are .* transposed"),
        ("nllb_moe", _as("expert_7.fc2.weight", lambda t: t.new_empty(0)), "it is empty"),
        ("switch_transformers", _as("expert_7.wo", lambda t: t.T), "7 of its siblings"),
        ("ernie4_5_vl_moe", _as("e_score_correction_bias", lambda t: t.T), r"and \\[1, 8\\] by config.json"),
        ("deepseek_v3", lambda _, config: config.update(first_k_dense_replace=2), "not routed by config.json"),
        ("qwen3_moe", lambda _, config: config.update(mlp_only_layers=[1]), "not routed by config.json"),
    ],
)
def test_known_families(family: str, plant: Callable[[Tensors, Config], None], words: str, tmp_path: Path) -> None:
    folder = change(saved(family, tmp_path), plant)
    with pytest.raises(IncompleteError, match=words.replace("\\\\", "\\")):
        scan(folder)


@pytest.mark.parametrize("part", ["router.per_expert_scale", "router.scale"])
@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_factors_of_a_router_that_make_no_logits(part: str, value: float, tmp_path: Path) -> None:
    folder = change(saved("gemma4:text", tmp_path), _as(part, lambda t: torch.full_like(t, value)))
    judged = decide(analyze(folder, weights_only=True))
    assert judged.exit_code == 2
    assert "layers.0.router could not be checked" in judged.reason


def test_all_experts_of_a_layer_transposed(tmp_path: Path) -> None:
    def plant(tensors: Tensors, _: Config) -> None:
        for name in [name for name in tensors if "layers.1.mlp.experts" in name]:
            tensors[name] = tensors[name].T

    with pytest.raises(IncompleteError, match=r"\[8, 16, 32\] in the files and \[8, 32, 16\] by config.json"):
        scan(change(saved("qwen3_moe", tmp_path), plant))


def test_an_unknown_model_type(tmp_path: Path) -> None:
    def shards(made: Callable[[torch.Tensor], torch.Tensor], part: str) -> list[Tensors]:
        held = kimi(hidden=256)
        for name in [name for name in held[3] if part in name]:
            held[3][name] = made(held[3][name])
        return held

    with pytest.raises(IncompleteError, match="a bias holds numbers with fractions"):
        scan(write(tmp_path / "a", UNKNOWN, shards(lambda t: t.long(), "correction_bias")))
    with pytest.raises(IncompleteError, match="those of 2 other layers"):
        scan(write(tmp_path / "b", UNKNOWN, shards(lambda t: t.T, ".experts.")))
    column = scan(write(tmp_path / "c", UNKNOWN, shards(lambda t: t[:, None], "correction_bias")))
    assert [one.what for one in column.not_checked if one.blocking] == ["model.layers.2.mlp.gate"]
    without = [
        {name: tensor for name, tensor in shard.items() if ".experts." not in name} for shard in kimi(hidden=256)
    ]
    with pytest.raises(IncompleteError, match="no experts next to it"):
        scan(write(tmp_path / "d", UNKNOWN, without))
