"""What the files hold is compared with what must be there: never fewer routers in silence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moeprobe.errors import IncompleteError, MoeprobeError
from moeprobe.survey import routers
from moeprobe.weights_scan import scan
from tests.commandline import Moeprobe
from tests.weights_only.stored import KIMI, Config, Tensors, change, kimi, saved, write

GATE, BIAS = "model.layers.{}.mlp.gate.weight", "model.layers.{}.mlp.gate.e_score_correction_bias"


def _gate_gone(tensors: Tensors, _: Config) -> None:
    del tensors[GATE.format(1)]


def _gates_empty(tensors: Tensors, _: Config) -> None:
    tensors |= {GATE.format(layer): torch.empty(0) for layer in (0, 1)}


def _gate_scalar(tensors: Tensors, _: Config) -> None:
    tensors[GATE.format(1)] = torch.tensor(1.0)


def _gate_transposed(tensors: Tensors, _: Config) -> None:
    tensors[GATE.format(1)] = tensors[GATE.format(1)].T


def _row_too_many(tensors: Tensors, _: Config) -> None:
    tensors[GATE.format(1)] = torch.cat([tensors[GATE.format(1)], torch.zeros(1, 32)])


def _more_rows_in_one_layer(tensors: Tensors, _: Config) -> None:
    tensors[GATE.format(1)] = torch.randn(12, 32)


def _pruned_without_config(tensors: Tensors, _: Config) -> None:
    for name in list(tensors):
        if name.endswith("mlp.gate.weight"):
            tensors[name] = tensors[name][:6]
        elif ".experts.6." in name or ".experts.7." in name:
            del tensors[name]


def _one_rank(tensors: Tensors, _: Config) -> None:
    for name in [name for name in tensors if any(f".experts.{number}." in name for number in (4, 5, 6, 7))]:
        del tensors[name]


def _one_expert_gone(tensors: Tensors, _: Config) -> None:
    for name in [name for name in tensors if ".layers.1.mlp.experts.3." in name]:
        del tensors[name]


def _one_projection_gone(tensors: Tensors, _: Config) -> None:
    for name in [name for name in tensors if name.endswith("layers.1.mlp.experts.7.up_proj.weight")]:
        del tensors[name]


def _first_expert_gone(tensors: Tensors, _: Config) -> None:
    for name in [name for name in tensors if ".layers.1.mlp.experts.0." in name]:
        del tensors[name]


def _experts_too_narrow(tensors: Tensors, _: Config) -> None:
    for name in [name for name in tensors if ".layers.1.mlp.experts." in name and name.endswith("up_proj.weight")]:
        tensors[name] = tensors[name][:8]


def _experts_in_config(_: Tensors, config: Config) -> None:
    config["num_experts" if "num_experts" in config else "num_local_experts"] = 12


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (_gate_gone, (GATE.format(1), "[8, 32]", "cannot be found", "cut out")),
        (_gates_empty, (GATE.format(0), "[0]", "[8, 32]", "without gathering")),
        (_gate_scalar, (GATE.format(1), "[]", "[8, 32]", "number of dimensions")),
        (_gate_transposed, (GATE.format(1), "[32, 8]", "[8, 32]", "transposed")),
        (_row_too_many, (GATE.format(1), "[9, 32]", "[8, 32]", "one row too many")),
        (_more_rows_in_one_layer, (GATE.format(1), "[12, 32]", "[8, 32]", "num_local_experts (8)")),
        (_pruned_without_config, ("num_local_experts is 8", "6 experts", "pruned without changing config.json")),
        (_one_rank, ("num_local_experts is 8", "4 experts", "one of 2 ranks")),
        (_one_expert_gone, ("Expert 3 of model.layers.1.mlp.experts", "7 of its siblings")),
        (_one_projection_gone, ("7 experts below model.layers.1.mlp.experts", "up_proj.weight", "8")),
        (_first_expert_gone, ("Expert 0 of model.layers.1.mlp.experts",)),
        (_experts_too_narrow, ("model.layers.1.mlp.experts", "gate_up_proj", "in the files")),
        (_experts_in_config, ("num_local_experts is 12", "8 experts")),
    ],
)
def test_what_is_missing_or_misshapen_is_named(
    plant: Callable[[Tensors, Config], object], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = change(saved("qwen3_moe", tmp_path), plant)
    with pytest.raises(IncompleteError) as refused:
        scan(folder)
    for word in words:
        assert word in str(refused.value)
    with pytest.raises(MoeprobeError):
        routers(folder)


def _bias_gone(tensors: Tensors, _: Config) -> None:
    del tensors[BIAS.format(1)]


def _biases_gone(tensors: Tensors, _: Config) -> None:
    for layer in (1, 2):
        del tensors[BIAS.format(layer)]


def _bias_of_another_framework(tensors: Tensors, _: Config) -> None:
    for layer in (1, 2):
        tensors[f"model.layers.{layer}.mlp.router.expert_bias"] = tensors.pop(BIAS.format(layer))


def _bias_too_long(tensors: Tensors, _: Config) -> None:
    tensors[BIAS.format(1)] = torch.zeros(12)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (_bias_gone, (BIAS.format(1), "[8]", "cannot be found")),
        (_biases_gone, (BIAS.format(1), "and 1 more")),
        (
            _bias_of_another_framework,
            (BIAS.format(1), "model.layers.1.mlp.router.expert_bias [8]", "another framework"),
        ),
        (_bias_too_long, (BIAS.format(1), "[12]", "[8]", "n_routed_experts (8)")),
    ],
)
def test_the_selection_bias_of_a_family_that_has_one(
    plant: Callable[[Tensors, Config], object], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = change(saved("deepseek_v3", tmp_path), plant)
    with pytest.raises(IncompleteError) as refused:
        scan(folder)
    for word in words:
        assert word in str(refused.value)


def test_names_of_another_framework(tmp_path: Path) -> None:
    def plant(tensors: Tensors, _: Config) -> None:
        for layer in range(2):
            for part in ("weight", "bias"):
                at = f"model.layers.{layer}.mlp.router"
                tensors[f"{at}.linear.{part}"] = tensors.pop(f"{at}.{part}")

    folder = change(saved("gpt_oss", tmp_path), plant)
    with pytest.raises(IncompleteError, match=r"router\.linear\.\w+ \[8.* instead"):
        scan(folder)
    with pytest.raises(MoeprobeError):
        routers(folder)


def test_routers_under_the_config_of_a_dense_model(tmp_path: Path) -> None:
    def plant(_: Tensors, config: Config) -> None:
        config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}

    folder = change(saved("mixtral", tmp_path), plant)
    with pytest.raises(IncompleteError, match=r"model_type llama.*a dense model.*hold routers.*gate\.weight"):
        scan(folder)
    with pytest.raises(MoeprobeError, match="model_type"):
        routers(folder)


def test_an_adapter_that_was_not_merged(moeprobe: Moeprobe, tmp_path: Path) -> None:
    def plant(tensors: Tensors, _: Config) -> None:
        for name in list(tensors):
            tensors[f"base_model.model.{name}"] = tensors.pop(name)
        at = "base_model.model.model.layers.0.self_attn.q_proj.lora"
        tensors |= {f"{at}_A.default.weight": torch.zeros(2, 32), f"{at}_B.default.weight": torch.zeros(32, 2)}

    folder = change(saved("qwen3_moe", tmp_path / "m"), plant)
    for options in ([], ["--weights-only"]):
        done = moeprobe("check", str(folder), *options)
        assert done.code == 2
        assert "adapter that was not merged" in done.sentence
        assert "merge_and_unload()" in done.sentence


Shards = list[Tensors]


def _unknown_gate_gone(shards: Shards) -> None:
    del shards[3][GATE.format(2)]
    del shards[3][BIAS.format(2)]


def _unknown_wider(shards: Shards) -> None:
    shards[3][GATE.format(2)] = torch.randn(16, 256)


def _unknown_pruned(shards: Shards) -> None:
    for layer in (1, 2, 3):
        shards[layer + 1][GATE.format(layer)] = shards[layer + 1][GATE.format(layer)][:4]
        shards[layer + 1][BIAS.format(layer)] = shards[layer + 1][BIAS.format(layer)][:4]
        for name in [n for n in shards[layer + 1] if any(f"experts.{e}." in n for e in (4, 5, 6, 7))]:
            del shards[layer + 1][name]


def _unknown_one_bias_gone(shards: Shards) -> None:
    del shards[3][BIAS.format(2)]


def _unknown_biases_gone(shards: Shards) -> None:
    for layer in (1, 2, 3):
        del shards[layer + 1][BIAS.format(layer)]


def _unknown_bias_long(shards: Shards) -> None:
    shards[3][BIAS.format(2)] = torch.zeros(16)


def _unknown_transposed(shards: Shards) -> None:
    shards[3][GATE.format(2)] = shards[3][GATE.format(2)].T


def _unknown_expert_gone(shards: Shards) -> None:
    for name in [name for name in shards[3] if ".experts.5." in name]:
        del shards[3][name]


def _unknown_last_experts_gone(shards: Shards) -> None:
    for name in [name for name in shards[3] if ".experts.7." in name]:
        del shards[3][name]


def _unknown_layer_gone(shards: Shards) -> None:
    shards[3] = {name: tensor for name, tensor in shards[3].items() if ".mlp." not in name}


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (_unknown_gate_gone, ("model.layers.2.mlp", "no gate")),
        (_unknown_wider, (GATE.format(2), "[16, 256]", "8 experts")),
        (_unknown_pruned, ("n_routed_experts is 8", "4 experts", "pruned")),
        (_unknown_one_bias_gone, ("model.layers.2.mlp.gate", "lacks e_score_correction_bias", "2 other routers")),
        (_unknown_biases_gone, ("model.layers.1.mlp.gate", "topk_method noaux_tc")),
        (_unknown_bias_long, (BIAS.format(2), "[16]", "8 rows")),
        (_unknown_transposed, (GATE.format(2), "[256, 8]", "transposed")),
        (_unknown_expert_gone, ("Expert 5 of model.layers.2.mlp.experts",)),
        (_unknown_last_experts_gone, ("7 experts", "model.layers.2.mlp", "8")),
        (_unknown_layer_gone, ("Layer 2", "first_k_dense_replace 1", "no gate for it")),
    ],
)
def test_a_model_type_that_transformers_does_not_have(
    plant: Callable[[Shards], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    shards = kimi(hidden=256)
    config = KIMI | {"hidden_size": 256, "first_k_dense_replace": 1, "moe_layer_freq": 1, "topk_method": "noaux_tc"}
    scan(write(tmp_path / "sound", config, shards))
    plant(shards)
    with pytest.raises(IncompleteError) as refused:
        scan(write(tmp_path / "broken", config, shards))
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("part", ["weight_scale", "input_scale"])
def test_experts_of_one_layer_without_the_scales_of_the_others(part: str, tmp_path: Path) -> None:
    shards = kimi(hidden=256)
    for shard in shards:
        for name in [name for name in shard if ".experts." in name]:
            shard[name] = shard[name].to(torch.float8_e4m3fn)
            shard |= {name.replace("weight", scale): torch.ones(1) for scale in ("weight_scale", "input_scale")}
    config = KIMI | {"hidden_size": 256, "quantization_config": {"quant_method": "fp8"}}
    assert scan(write(tmp_path / "sound", config, shards)).routers
    for name in [name for name in shards[3] if name.endswith(f"down_proj.{part}")]:
        del shards[3][name]
    with pytest.raises(IncompleteError, match=rf"layers\.2\.mlp\.experts\.0\.down_proj\.weight .* has no {part}"):
        scan(write(tmp_path / "broken", config, shards))


def test_layers_that_were_not_quantised_are_no_fault(tmp_path: Path) -> None:
    shards = kimi(hidden=256)
    for shard in shards[:4]:
        for name in [name for name in shard if ".experts." in name]:
            shard[name] = shard[name].to(torch.float8_e4m3fn)
            shard[name.replace("weight", "weight_scale")] = torch.ones(1)
    config = KIMI | {"hidden_size": 256, "quantization_config": {"quant_method": "fp8"}}
    assert len(scan(write(tmp_path, config, shards)).routers) == 3
