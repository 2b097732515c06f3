"""What lies in a checkpoint and no model reads is listed, and is a warning where its name is that of routing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from moeprobe.findings.result import Result
from tests.commandline import Moeprobe
from tests.weights_only.stored import Config, Tensors, change, saved

MODES = pytest.mark.parametrize("options", [["--weights-only"], ["--recipe", "quick"]], ids=["weights only", "in full"])


def _check(moeprobe: Moeprobe, folder: Path, options: list[str]) -> tuple[int, str, Result]:
    """Exit code, what the terminal shows, and the result; warnings fail."""
    saved_as = folder / "out.json"
    only = ["--select", "unread-tensors,flat-scores", "--fail-on", "warning", "--output", f"json={saved_as}"]
    done = moeprobe("check", str(folder), *options, *only)
    assert saved_as.is_file(), done.err
    return done.code, done.out, Result.load(saved_as)


@MODES
def test_nothing_is_said_where_all_is_read(moeprobe: Moeprobe, tmp_path: Path, options: list[str]) -> None:
    code, out, result = _check(moeprobe, saved("qwen3_moe", tmp_path), options)
    assert (code, result.evidence.unread) == (0, [])
    assert "Not read" not in out


@MODES
def test_a_selection_bias_that_the_model_has_no_place_for(
    moeprobe: Moeprobe, tmp_path: Path, options: list[str]
) -> None:
    def plant(tensors: Tensors, _: Config) -> None:
        tensors |= {f"model.layers.{layer}.mlp.gate.e_score_correction_bias": torch.zeros(8) for layer in (0, 1)}

    code, out, result = _check(moeprobe, change(saved("qwen3_moe", tmp_path), plant), options)
    assert code == 1
    assert "Not read: 2 tensors (model.layers.*.mlp.gate.e_score_correction_bias)" in out
    assert [(one.detector, one.severity, one.measured) for one in result.findings] == [("unread-tensors", "warning", 2)]
    assert "2 tensors (model.layers.*.mlp.gate.e_score_correction_bias)" in [one.what for one in result.not_checked]


@MODES
def test_an_adapter_among_the_weights(moeprobe: Moeprobe, tmp_path: Path, options: list[str]) -> None:
    def plant(tensors: Tensors, _: Config) -> None:
        tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(2, 32)

    code, _, result = _check(moeprobe, change(saved("qwen3_moe", tmp_path), plant), options)
    assert code == 1
    assert "lora_A" in result.findings[0].message


@MODES
def test_layers_of_multi_token_prediction_are_listed(moeprobe: Moeprobe, tmp_path: Path, options: list[str]) -> None:
    def plant(tensors: Tensors, config: Config) -> None:
        config["num_nextn_predict_layers"] = 1
        last = {name: tensor for name, tensor in tensors.items() if ".layers.2." in name}
        tensors |= {name.replace(".layers.2.", ".layers.3."): tensor.clone() for name, tensor in last.items()}
        tensors["model.layers.3.eh_proj.weight"] = torch.zeros(32, 64)

    code, out, result = _check(moeprobe, change(saved("deepseek_v3", tmp_path), plant), options)
    assert (code, result.findings) == (0, [])
    assert "multi-token prediction" in out
    assert {one.router.layer for one in result.evidence.routers} == {1, 2}
    # Every expert counts, though one stands for all of them while names are placed.
    assert result.evidence.unread
    assert result.evidence.unread[0].count > 24


@MODES
@pytest.mark.parametrize("shards_are_read", [True, False])
def test_a_second_set_of_weights(moeprobe: Moeprobe, tmp_path: Path, options: list[str], shards_are_read: bool) -> None:
    folder = saved("qwen3_moe", tmp_path)
    names = ["model-00001-of-00001.safetensors"]
    shutil.copy(folder / "model.safetensors", folder / names[0])
    if shards_are_read:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(_names(folder / names[0]), names[0])}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code, out, result = _check(moeprobe, folder, options)
    assert code == 1
    assert "second set of weights" in out
    assert result.findings[0].cause == "weight files lie next to those that are read"


@MODES
def test_other_formats_are_listed_without_a_finding(moeprobe: Moeprobe, tmp_path: Path, options: list[str]) -> None:
    folder = saved("mixtral", tmp_path)
    for name in ("consolidated.safetensors", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"):
        shutil.copy(folder / "model.safetensors", folder / name)
    for name in ("optimizer.pt", "rng_state_0.pth", "training_args.bin"):
        (folder / name).write_bytes(b"x")
    code, out, result = _check(moeprobe, folder, options)
    assert (code, result.findings) == (0, [])
    assert result.evidence.unread
    assert [one.names for one in result.evidence.unread] == [["consolidated.safetensors"], ["pytorch_model-*.bin"]]
    assert "Not read: 1 file (consolidated.safetensors)" in out


def _names(file: Path) -> list[str]:
    raw = file.read_bytes()
    return [name for name in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) if name != "__metadata__"]
