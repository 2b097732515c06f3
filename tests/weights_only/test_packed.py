"""``--weights-only`` on quantised gates: judged by their own scales, reported as stored, refused where unreadable."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moeprobe.detectors.low_precision import FEW_LEVELS
from moeprobe.pipeline import analyze
from tests.commandline import Moeprobe
from tests.packed import Packed, every_format
from tests.weights_only.stored import KIMI, kimi, write

Shards = list[dict[str, Tensor]]
HIDDEN, EXPERTS = 128, 16
CONFIG = KIMI | {"hidden_size": HIDDEN, "n_routed_experts": EXPERTS}
FORMATS = {name: packed for name, packed in every_format(EXPERTS, HIDDEN).items() if len(packed.means) == EXPERTS}


def packed_kimi(packed: Packed, layers: tuple[int, ...] = (1, 2, 3)) -> Shards:
    shards = kimi(hidden=HIDDEN, experts=EXPERTS, width=8)
    for layer in layers:
        at = f"model.layers.{layer}.mlp.gate"
        del shards[layer + 1][f"{at}.weight"]
        shards[layer + 1] |= {f"{at}.{name}": part.clone() for name, part in packed.parts.items()}
    return shards


def declared(packed: Packed) -> dict[str, Any]:
    return {"quantization" if not packed.config.get("quant_method") else "quantization_config": packed.config}


@pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)
def test_a_packed_gate_is_what_its_numbers_are(packed: Packed, tmp_path: Path) -> None:
    shards = kimi(hidden=HIDDEN, experts=EXPERTS, width=8)
    for layer in (1, 2, 3):
        shards[layer + 1][f"model.layers.{layer}.mlp.gate.weight"] = packed.means
    plain = analyze(write(tmp_path / "plain", CONFIG, shards), weights_only=True)
    folder = write(tmp_path / "packed", CONFIG | declared(packed), packed_kimi(packed))
    found = analyze(folder, weights_only=True)
    assert not [one for one in found.not_checked if one.blocking]
    assert [one.router.path for one in found.evidence.routers] == [one.router.path for one in plain.evidence.routers]
    for one, other in zip(found.evidence.routers, plain.evidence.routers, strict=True):
        assert one.router.stored
        assert one.router.stored.bits == packed.bits
        assert one.weights
        assert other.weights
        assert one.weights.dtype == one.router.stored.format
        assert one.weights.row_norms == pytest.approx(other.weights.row_norms, rel=1e-5)
        assert one.router.selection_bias == other.router.selection_bias
    told = [sorted((one.detector, one.cause, one.experts) for one in each.findings) for each in (found, plain)]
    assert told[0] == told[1]
    # That a quantiser stored few levels is worth knowing; that somebody rounded the numbers before needs eyes.
    levels = [{one.severity for one in result.findings if one.cause == FEW_LEVELS} for result in (found, plain)]
    assert levels in ([{"info"}, {"warning"}], [set(), set()])


def test_a_fault_in_a_packed_gate_is_found(moeprobe: Moeprobe, tmp_path: Path) -> None:
    packed = FORMATS["compressed-tensors int4"]
    shards = packed_kimi(packed)
    shards[3]["model.layers.2.mlp.gate.weight_scale"][5] = float("nan")
    done = moeprobe(
        "check", write(tmp_path / "m", CONFIG | declared(packed), shards), "--weights-only", "--output-format", "json"
    )
    assert done.code == 1, done.err
    found = [one for one in json.loads(done.out)["findings"] if one["severity"] == "error"]
    assert [(one["cause"], one["experts"]) for one in found] == [("gate weights are not finite", [5])]


def test_the_report_says_in_how_many_bits(moeprobe: Moeprobe, tmp_path: Path) -> None:
    packed = FORMATS["compressed-tensors int4"]
    folder = write(tmp_path / "m", CONFIG | declared(packed), packed_kimi(packed))
    assert "4 bits: int4 in groups of 32 (compressed-tensors)" in moeprobe("routers", folder, "--weights-only").out
    assert moeprobe("analyze", folder, "--weights-only", "-o", tmp_path / "out").code == 0
    assert "4 bits: int4 in groups of 32" in (tmp_path / "out" / "report.md").read_text().replace("\\", "")


def test_what_cannot_be_read_leaves_the_answer_unknown(moeprobe: Moeprobe, tmp_path: Path) -> None:
    packed = FORMATS["compressed-tensors int4"]
    shards = packed_kimi(packed, layers=(2,))
    del shards[3]["model.layers.2.mlp.gate.weight_scale"]
    folder = write(tmp_path / "m", CONFIG | declared(packed), shards)
    done = moeprobe("check", folder, "--weights-only")
    assert done.code == 2
    assert (
        "model.layers.2.mlp.gate could not be checked (weight_packed is stored as codes, and weight_scale" in done.out
    )
    assert "1 thing that could not be checked" in done.out
    refused = moeprobe("routers", folder, "--weights-only")
    assert (refused.code, "1 of 3 routers" in refused.sentence) == (2, True)
    shards[4]["model.layers.3.mlp.gate.weight"].zero_()  # a finding is known, whatever else is not
    again = moeprobe("check", write(tmp_path / "n", CONFIG | declared(packed), shards), "--weights-only")
    assert again.code == 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_a_selection_bias_in_codes_is_not_passed_over(dtype: torch.dtype, moeprobe: Moeprobe, tmp_path: Path) -> None:
    shards = kimi(hidden=HIDDEN, experts=EXPERTS, width=8)
    name = "model.layers.2.mlp.gate.e_score_correction_bias"
    shards[3][name] = shards[3][name].to(dtype)
    done = moeprobe("check", write(tmp_path / "m", CONFIG, shards), "--weights-only")
    assert done.code == 2
    assert re.search(r"e_score_correction_bias( of \S+)? is stored as", done.out + done.err)


def test_a_plain_cast_that_is_declared_is_judged(moeprobe: Moeprobe, tmp_path: Path) -> None:
    shards = kimi(hidden=HIDDEN, experts=EXPERTS, width=8)
    for layer in (1, 2, 3):
        name = f"model.layers.{layer}.mlp.gate.weight"
        shards[layer + 1][name] = shards[layer + 1][name].to(torch.float8_e4m3fn)
    cast = CONFIG | {"torch_dtype": "float8_e4m3fn"}
    assert moeprobe("check", write(tmp_path / "m", cast, shards), "--weights-only").code == 0
    assert moeprobe("check", write(tmp_path / "n", CONFIG, shards), "--weights-only").code == 2


def test_the_layout_of_mlx(tmp_path: Path) -> None:
    """Experts are called switch_mlp there, and single modules have settings of their own."""
    eight, four = FORMATS["MLX int8"], FORMATS["MLX int4"]
    shards = packed_kimi(eight)
    for layer in (1, 2, 3):
        shard = shards[layer + 1]
        for name in [name for name in shard if ".experts." in name]:
            del shard[name]
        for name, part in four.parts.items():
            shard[f"model.layers.{layer}.mlp.switch_mlp.gate_proj.{name}"] = part.unsqueeze(0).expand(16, -1, -1)
    gates = {f"model.layers.{layer}.mlp.gate": eight.config for layer in (1, 2, 3)}
    said = four.config | gates
    config = CONFIG | {"quantization": said, "quantization_config": said}
    found = analyze(write(tmp_path / "m", config, shards), weights_only=True)
    assert [one.router.path for one in found.evidence.routers] == list(gates)
    assert {one.router.stored.bits for one in found.evidence.routers if one.router.stored} == {8}
    wrong = CONFIG | {"quantization": four.config}
    refused = analyze(write(tmp_path / "n", wrong, shards), weights_only=True)
    assert "unpacks to 256 columns, and the hidden size is 128" in refused.not_checked[0].why


@pytest.mark.parametrize("leaf", ["qweight", "weight_packed", "weight.absmax", "weight_scale_inv"])
def test_codes_go_where_their_weight_goes(leaf: str) -> None:
    """transformers' patterns end at the name of the weight; the router would not be found under another name."""
    from moeprobe.checkpoint.names import module_tensors

    for model_type, stored, name in (
        ("mixtral", "model.layers.0.block_sparse_moe.gate.", "model.layers.0.mlp.gate."),
        ("phimoe", "model.layers.0.block_sparse_moe.gate.", "model.layers.0.mlp.router."),
        ("qwen3_moe", "model.layers.0.mlp.gate.", "model.layers.0.mlp.gate."),
    ):
        found = module_tensors({"model_type": model_type}, [f"{stored}{leaf}"])
        assert [one.name for one in found] == [f"{name}{leaf}"]
