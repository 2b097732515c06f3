import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.checkpoint.skeleton import skeleton
from moeprobe.errors import CheckpointError, IncompleteError, MoeprobeError, OptionError, UnsafeError

KINDS = ["llama", "mixtral", "deepseek_v3", "deepseek_v4"]


@pytest.fixture
def altered(saved: Callable[..., Path], tmp_path: Path) -> Callable[..., Checkpoint]:
    """A saved model with its tensors changed by a function, and its config by a dict."""

    def alter(kind: str, change: Callable[[dict[str, Tensor]], Any] = len, **config: Any) -> Checkpoint:
        folder = shutil.copytree(saved(kind), tmp_path / "altered")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(written | config))
        return open_checkpoint(folder)

    return alter


def without(*parts: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if any(part in name for part in parts)]:
            del tensors[name]

    return change


def refusal(error: type[MoeprobeError], call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_has_shapes_and_no_weights(saved: Callable[..., Path], kind: str) -> None:
    checkpoint = open_checkpoint(saved(kind))
    model = skeleton(checkpoint)
    assert type(model).__name__ == checkpoint.architecture
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert not model.training


@pytest.mark.parametrize(
    ("architecture", "made"),
    [
        ("MixtralForTokenClassification", "MixtralForTokenClassification"),
        ("MixtralModel", "MixtralModel"),
        ("MixtralForSomethingElse", "MixtralForCausalLM"),
    ],
)
def test_the_class_that_saved_the_weights(altered: Callable[..., Checkpoint], architecture: str, made: str) -> None:
    assert type(skeleton(altered("mixtral", architectures=[architecture]))).__name__ == made


def test_a_skeleton_needs_no_weights(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("mixtral"), tmp_path / "copy")
    models: list[Any] = []
    open_checkpoint(folder, before_weights=lambda checkpoint: models.append(skeleton(checkpoint)))
    assert type(models[0]).__name__ == "MixtralForCausalLM"


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_stored_one(saved: Callable[..., Path], kind: str, dtype: str, shard: str) -> None:
    folder = saved(kind, dtype, shard)
    loaded = load_model(open_checkpoint(folder))
    assert loaded.missing == []
    assert loaded.model.dtype == getattr(torch, dtype)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    reference = hf.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    ours = loaded.model.state_dict()
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in reference.items())


def test_a_dtype_can_be_asked_for(saved: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(saved("mixtral"))
    assert load_model(checkpoint, dtype="bfloat16", device_map="cpu").model.dtype == torch.bfloat16


def test_an_experts_implementation_can_be_asked_for(saved: Callable[..., Path]) -> None:
    model = load_model(open_checkpoint(saved("mixtral")), experts_implementation="eager").model
    assert model.config._experts_implementation == "eager"


@pytest.mark.parametrize(
    ("options", "gist"),
    [
        ({"dtype": "fp8"}, "Unknown dtype 'fp8'; choose one of auto, float32, bfloat16, float16"),
        ({"device_map": "gpu"}, "device map 'gpu' is no device"),
        ({"device_map": "cpu:x"}, "device map 'cpu:x' is no device"),
        ({"device_map": "meta"}, "holds no weights"),
        ({"experts_implementation": "fast"}, "Unknown experts implementation 'fast'; choose one of eager,"),
    ],
)
def test_bad_options(saved: Callable[..., Path], options: dict[str, str], gist: str) -> None:
    assert gist in refusal(OptionError, load_model, open_checkpoint(saved("mixtral")), **options)


def test_a_missing_gate_is_an_error(altered: Callable[..., Checkpoint]) -> None:
    message = refusal(IncompleteError, load_model, altered("mixtral", without("gate.weight")))
    assert "2 of 21 tensors are missing" in message
    assert "model.layers.0.mlp.gate.weight, model.layers.1.mlp.gate.weight" in message


def test_a_missing_hash_table_is_an_error(altered: Callable[..., Checkpoint]) -> None:
    assert "tid2eid" in refusal(IncompleteError, load_model, altered("deepseek_v4", without("tid2eid")))


@pytest.mark.parametrize(("change", "says"), [(8, "give each of the 8 new ones a row of 2"), (-8, "cut it too")])
def test_a_vocabulary_that_was_resized_without_its_hash_table(
    altered: Callable[..., Checkpoint], change: int, says: str
) -> None:
    def resize(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("tid2eid"))
        rows = tensors[name].shape[0]
        tensors[name] = torch.cat([tensors[name]] * 2)[: rows - change].contiguous()

    message = refusal(IncompleteError, load_model, altered("deepseek_v4", resize))
    assert says in message
    assert "the vocabulary was resized without this table" in message


def test_a_missing_selection_bias_is_zero_and_reported(altered: Callable[..., Checkpoint]) -> None:
    loaded = load_model(altered("deepseek_v3", without("e_score_correction_bias")))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert loaded.missing == [name]
    assert not loaded.model.state_dict()[name].any()


def test_a_missing_expert_is_an_error(altered: Callable[..., Checkpoint]) -> None:
    message = refusal(IncompleteError, load_model, altered("mixtral", without("experts.1.")))
    assert "[3, 16, 24] in the files and [4, 16, 24] by config.json" in message


def test_half_an_expert_is_an_error(altered: Callable[..., Checkpoint]) -> None:
    message = refusal(
        IncompleteError, load_model, altered("mixtral", without("layers.1.block_sparse_moe.experts.1.w1"))
    )
    assert "model.layers.1.mlp.experts.gate_up_proj" in message


def test_another_shape_is_an_error(altered: Callable[..., Checkpoint]) -> None:
    message = refusal(IncompleteError, load_model, altered("mixtral", intermediate_size=48))
    assert "by config.json, where it depends on intermediate_size (48)" in message


def test_weights_of_another_model_are_an_error(altered: Callable[..., Checkpoint]) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[f"encoder.{name}"] = tensors.pop(name)

    message = refusal(IncompleteError, load_model, altered("mixtral", rename))
    assert "are not those of a MixtralForCausalLM" in message
    assert "encoder.lm_head.weight" in message


def test_additional_tensors_are_fine(altered: Callable[..., Checkpoint]) -> None:
    extra = altered("mixtral", lambda tensors: tensors.update({"model.layers.9.mtp.weight": torch.zeros(2)}))
    assert load_model(extra).missing == []


def test_a_config_that_makes_no_model(altered: Callable[..., Checkpoint]) -> None:
    checkpoint = altered("mixtral", hidden_act="wavy")
    message = refusal(CheckpointError, skeleton, checkpoint)
    assert "config.json" in message
    assert 'hidden_act ("wavy")' in message
    assert "transformers cannot load" in refusal(CheckpointError, load_model, checkpoint)


def test_a_model_type_without_a_language_model(folder: Callable[..., Path], saved: Callable[..., Path]) -> None:
    weights = (saved("mixtral") / "model.safetensors").read_bytes()
    path = folder(config__json={"model_type": "encodec"}, model__safetensors=weights)
    checkpoint = open_checkpoint(path)
    assert type(skeleton(checkpoint)).__name__ == "EncodecModel"


def test_a_package_for_quantised_weights(altered: Callable[..., Checkpoint]) -> None:
    checkpoint = altered("mixtral", quantization_config={"quant_method": "gptq", "bits": 4})
    message = refusal(CheckpointError, load_model, checkpoint)
    assert "quantised (gptq)" in message
    assert "package that is not installed" in message
    assert "optimum" in message.lower() or "gptq" in message.lower()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.\nx"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(hf.MixtralForCausalLM, "from_pretrained", fail)
    message = refusal(CheckpointError, load_model, open_checkpoint(saved("mixtral")))
    assert "not enough memory" in message
    assert "--device-map auto" in message


def test_the_first_line_of_any_other_error(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise KeyError("\n\nfirst line.\nsecond line")

    monkeypatch.setattr(hf.MixtralForCausalLM, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match="cannot load") as caught:
        load_model(open_checkpoint(saved("mixtral")))
    assert "(KeyError)" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


MODULE = """
import transformers
class Config(transformers.LlamaConfig):
    model_type = "not_native"
class Model(transformers.LlamaForCausalLM):
    config_class = Config
"""


def test_code_of_the_checkpoint(
    altered: Callable[..., Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    native = altered("llama", auto_map=auto_map)
    (native.folder / "own.py").write_text(MODULE)
    assert type(load_model(native, trust_remote_code=True).model) is hf.LlamaForCausalLM

    config = native.config | {"model_type": "not_native"}
    (native.folder / "config.json").write_text(json.dumps(config))
    foreign = open_checkpoint(native.folder, trust_remote_code=True)
    assert "--trust-remote-code" in refusal(UnsafeError, load_model, foreign)
    assert "--trust-remote-code" in refusal(UnsafeError, skeleton, foreign)
    assert type(skeleton(foreign, trust_remote_code=True)).__name__ == "Model"
    assert type(load_model(foreign, trust_remote_code=True).model).__name__ == "Model"


@pytest.mark.parametrize("progress", [False, True])
def test_the_terminal_stays_clean(
    altered: Callable[..., Checkpoint], capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    checkpoint = altered("mixtral", lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))
    logger = logging.getLogger("transformers")
    before = (logger.level, list(logger.handlers), hf.utils.logging.is_progress_bar_enabled())
    capfd.readouterr()
    load_model(checkpoint, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("Loading weights" in err) == progress
    assert "UNEXPECTED" not in err
    assert before == (logger.level, list(logger.handlers), hf.utils.logging.is_progress_bar_enabled())


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer"
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(path)
    return path


def test_a_tokenizer_of_the_checkpoint_or_another(saved: Callable[..., Path], tokenizer_folder: Path) -> None:
    checkpoint = open_checkpoint(saved("mixtral"))
    assert load_tokenizer(checkpoint, str(tokenizer_folder))("a b")["input_ids"] == [0, 1]
    chosen = open_checkpoint(saved("mixtral"), tokenizer=str(tokenizer_folder))
    assert load_tokenizer(chosen)("b a")["input_ids"] == [1, 0]


def test_no_tokenizer(saved: Callable[..., Path]) -> None:
    message = refusal(IncompleteError, load_tokenizer, open_checkpoint(saved("mixtral")))
    assert "has no tokenizer" in message
    assert "--tokenizer" in message


@pytest.mark.parametrize("source", ["no-such/tokenizer", "/no/such/folder"])
def test_no_such_tokenizer(saved: Callable[..., Path], source: str) -> None:
    message = refusal(IncompleteError, load_tokenizer, open_checkpoint(saved("mixtral")), source)
    assert source in message
    assert "--tokenizer" in message


def test_a_broken_tokenizer(saved: Callable[..., Path], tokenizer_folder: Path) -> None:
    (tokenizer_folder / "tokenizer.json").write_text("{broken")
    message = refusal(IncompleteError, load_tokenizer, open_checkpoint(saved("mixtral")), str(tokenizer_folder))
    assert "cannot be loaded" in message


def test_a_tokenizer_that_wants_to_run_code(saved: Callable[..., Path], tokenizer_folder: Path) -> None:
    config = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps(config))
    (tokenizer_folder / "config.json").write_text(json.dumps({"model_type": "not_native", **config}))
    checkpoint = open_checkpoint(saved("mixtral"), tokenizer=str(tokenizer_folder))
    assert "--trust-remote-code" in refusal(UnsafeError, load_tokenizer, checkpoint)


def test_an_empty_tokenizer(saved: Callable[..., Path], tokenizer_folder: Path) -> None:
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {}
    content["added_tokens"] = []
    (tokenizer_folder / "tokenizer.json").write_text(json.dumps(content))
    (tokenizer_folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    checkpoint = open_checkpoint(saved("mixtral"), tokenizer=str(tokenizer_folder))
    assert "is empty" in refusal(IncompleteError, load_tokenizer, checkpoint)
