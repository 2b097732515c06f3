"""A value of config.json that makes no model: one sentence with the field and the file, before the forward pass."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moeprobe.errors import MoeprobeError
from moeprobe.opened import open_model
from moeprobe.weights_scan import scan
from tests.commandline import Moeprobe
from tests.zoo.save import save
from tests.zoo.zoo import ZOO

Folder = Callable[[str], Path]
HUGE = 10**30
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Folder of a saved case of the zoo; to be copied before it is changed."""

    @cache
    def folder(name: str) -> Path:
        (case,) = [one for one in ZOO if one.name == name]
        return save(case, tmp_path_factory.mktemp("zoo") / name.replace(":", "-"))

    return folder


def change(config: dict[str, Any], field: str, value: Any) -> None:
    *around, name = field.split(".")
    for part in around:
        config = config[part]
    config[name] = value


def changed(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    for field, value in changes.items():
        change(config, field, value)
    (target / "config.json").write_text(json.dumps(config))
    return target


def opened(folder: Path) -> None:
    open_model(folder, None, revision=None, dtype="auto", device_map=None, trust_remote_code=False, progress=False)


def told(folder: Path, stored: bool) -> str:
    """The refusal of what opens the checkpoint: nothing of it has run yet."""
    with pytest.raises(MoeprobeError) as caught:
        (scan if stored else opened)(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What stands here is refused whether the model is to run or only its weights are read.
ALWAYS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("mixtral", {"num_experts_per_tok": 9}, ("num_experts_per_tok is 9", "num_local_experts 8")),
    ("mixtral", {"num_experts_per_tok": 0}, ("num_experts_per_tok is 0", "at least one expert")),
    ("mixtral", {"num_experts_per_tok": -1}, ("num_experts_per_tok is -1",)),
    ("mixtral", {"num_experts_per_tok": "2"}, ('num_experts_per_tok is "2"', "whole number")),
    ("mixtral", {"num_experts_per_tok": True}, ("num_experts_per_tok is true",)),
    ("mixtral", {"num_experts_per_tok": 1.5}, ("num_experts_per_tok is 1.5",)),
    ("mixtral", {"num_experts_per_tok": None}, ("num_experts_per_tok", "null", "num_local_experts 8")),
    ("mixtral", {"num_local_experts": 0}, ("num_local_experts is 0", "8 experts")),
    ("mixtral", {"num_local_experts": 10**9}, ("num_local_experts is 1000000000", "8 experts")),
    ("mixtral", {"num_hidden_layers": 10**5}, ("num_hidden_layers is 100000", "2 layers")),
    ("mixtral", {"num_hidden_layers": 5}, ("num_hidden_layers is 5", "2 layers")),
    ("mixtral", {"num_hidden_layers": 1}, ("num_hidden_layers is 1", "2 layers")),
    ("mixtral", {"num_hidden_layers": 0}, ("num_hidden_layers is 0",)),
    ("mixtral", {"hidden_size": 10**6}, ("hidden_size is 1000000", "32 wide")),
    ("mixtral", {"hidden_size": HUGE}, ("hidden_size is 1000000",)),
    ("mixtral", {"hidden_size": INFINITY}, ("hidden_size is Infinity",)),
    ("mixtral", {"hidden_size": [32]}, ("hidden_size is [32]",)),
    ("mixtral", {"vocab_size": 10**8}, ("vocab_size is 100000000", "320 rows")),
    ("mixtral", {"vocab_size": 100}, ("vocab_size is 100", "320 rows")),
    ("mixtral", {"num_attention_heads": 0}, ("num_attention_heads is 0",)),
    ("mixtral", {"rms_norm_eps": NAN}, ("rms_norm_eps is NaN",)),
    ("mixtral", {"rope_parameters": "foo"}, ('rope_parameters is "foo"',)),
    ("mixtral", {"rope_parameters.rope_type": "spiral"}, ("rope_type", "spiral")),
    ("mixtral", {"rope_parameters.rope_theta": 0}, ("rope_theta is 0",)),
    ("mixtral", {"dtype": "float99"}, ('dtype is "float99"',)),
    ("mixtral", {"dtype": 16}, ("dtype is 16",)),
    ("mixtral", {"architectures": "MixtralForCausalLM"}, ("architectures",)),
    ("mixtral", {"quantization_config": "fp8"}, ('quantization_config is "fp8"',)),
    ("mixtral", {"attention_dropout": "none"}, ("attention_dropout", "str")),
    ("qwen3_moe", {"num_experts_per_tok": 9}, ("num_experts_per_tok is 9", "experts 8")),
    ("olmoe", {"num_experts": 4}, ("num_experts is 4", "8 experts")),
    ("qwen3_moe", {"decoder_sparse_step": 0}, ("decoder_sparse_step is 0",)),
    ("deepseek_v3", {"n_group": 3}, ("n_group is 3", "n_routed_experts 8", "equal size")),
    ("deepseek_v3", {"topk_group": 5}, ("topk_group is 5", "n_group 2")),
    ("deepseek_v3", {"n_group": 8}, ("topk_group is 1", "n_group 8", "num_experts_per_tok 2", "1 experts")),
    ("deepseek_v3", {"n_group": "2"}, ('n_group is "2"',)),
    ("deepseek_v3", {"routed_scaling_factor": INFINITY}, ("routed_scaling_factor is Infinity",)),
    ("deepseek_v3", {"first_k_dense_replace": 10**9}, ("first_k_dense_replace is 1000000000",)),
    ("gpt_oss", {"num_experts_per_tok": 9}, ("num_experts_per_tok is 9",)),
    ("gpt_oss", {"layer_types": ["full_attention"]}, ("layer_types", "num_hidden_layers")),
    ("gpt_oss", {"layer_types": ["full_attention", "wavy"]}, ("layer_types", "wavy")),
    ("dbrx", {"ffn_config.moe_top_k": 9}, ("ffn_config.moe_top_k is 9", "moe_num_experts 8")),
    ("dbrx", {"ffn_config": [8]}, ("ffn_config is [8]",)),
    ("qwen3_vl_moe", {"text_config": "qwen3"}, ('text_config is "qwen3"',)),
    ("qwen3_vl_moe", {"text_config": []}, ("text_config is []",)),
    ("qwen3_vl_moe", {"text_config.num_experts_per_tok": 9}, ("text_config.num_experts_per_tok is 9",)),
    ("qwen3_vl_moe", {"text_config.num_hidden_layers": 10**5}, ("text_config.num_hidden_layers is 100000",)),
    ("qwen3_vl_moe", {"vision_config.depth": 10**9}, ("vision_config.depth is 1000000000",)),
    ("aria", {"text_config.moe_topk": -3}, ("text_config.moe_topk is -3",)),
    ("switch_transformers", {"num_layers": 9}, ("num_layers is 9", "4 layers")),
    ("switch_transformers", {"num_experts": 16}, ("num_experts is 16", "8 experts")),
]  # fmt: skip
# What stands here needs the skeleton, or a size that the routers have nothing to do with.
RUN: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("mixtral", {"hidden_act": "wavy"}, ('hidden_act ("wavy")',)),
    ("mixtral", {"intermediate_size": 99}, ("by config.json", "intermediate_size (99)")),
    ("mixtral", {"num_attention_heads": 3}, ("by config.json", "num_attention_heads (3)")),
    ("mixtral", {"num_key_value_heads": 10**5}, ("by config.json", "num_key_value_heads (100000)")),
    ("qwen3_moe", {"decoder_sparse_step": 7}, ("the files hold some", "decoder_sparse_step (7)")),
    ("deepseek_v3", {"first_k_dense_replace": 3}, ("the files hold some", "first_k_dense_replace (3)")),
    ("qwen3_vl_moe", {"text_config": None}, ("text_config", "does not say")),
]  # fmt: skip


def ids(row: tuple[str, dict[str, Any], tuple[str, ...]]) -> str:
    return f"{row[0]}-{'-'.join(f'{field}={str(value)[:20]}' for field, value in row[1].items())}"


@pytest.mark.parametrize("stored", [False, True], ids=["run", "weights-only"])
@pytest.mark.parametrize("row", ALWAYS, ids=ids)
def test_the_sentence_names_the_field(row: Any, stored: bool, zoo_folder: Folder, tmp_path: Path) -> None:
    name, changes, words = row
    message = told(changed(zoo_folder(name), tmp_path / "model", changes), stored)
    for word in (*words, "config.json"):
        assert word in message, message


@pytest.mark.parametrize("row", RUN, ids=ids)
def test_what_only_a_model_shows_names_the_field(row: Any, zoo_folder: Folder, tmp_path: Path) -> None:
    name, changes, words = row
    message = told(changed(zoo_folder(name), tmp_path / "model", changes), stored=False)
    for word in (*words, "config.json"):
        assert word in message, message


COMMANDS = [
    "analyze",
    "check",
    "routers",
    "gates",
    "analyze --stream",
    "analyze --weights-only",
    "routers --weights-only",
]


@pytest.mark.parametrize("command", [*COMMANDS, "check --weights-only", "diff"])
def test_every_command_says_it(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path, command: str) -> None:
    folder = changed(checkpoints / "mixtral", tmp_path / "model", {"num_experts_per_tok": 500})
    name, *options = command.split()
    outcome = moeprobe(name, folder, *([folder] if name == "diff" else []), *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert "num_experts_per_tok is 500" in outcome.sentence
    assert "config.json" in outcome.sentence
    assert not Path("reports").exists()


HEALTHY: list[tuple[str, dict[str, Any]]] = [
    ("deepseek_v3", {"num_nextn_predict_layers": 1}),
    ("deepseek_v2:greedy", {"n_group": 3, "topk_group": 1}),
    ("qwen3_moe", {"num_nextn_predict_layers": None}),
    ("mixtral", {"architectures": None}),
    ("mixtral", {"dtype": None, "torch_dtype": "bfloat16"}),
    ("mixtral", {"sliding_window": 2**31}),
    ("mixtral", {"max_length": HUGE}),
]


@pytest.mark.parametrize("row", HEALTHY, ids=ids)
def test_what_healthy_checkpoints_say_is_not_refused(row: Any, zoo_folder: Folder, tmp_path: Path) -> None:
    folder = changed(zoo_folder(row[0]), tmp_path / "model", row[1])
    opened(folder)
    assert scan(folder).routers
