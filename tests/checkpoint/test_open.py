import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.errors import (
    CheckpointError,
    IncompleteError,
    MoeprobeError,
    NotFoundError,
    NotMoEError,
    UnsafeError,
)

CONFIG = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
REMOTE = {"model_type": "not_native", "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
EMPTY = (2).to_bytes(8, "little") + b"{}"
ONE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
WHOLE = len(ONE).to_bytes(8, "little") + ONE + b"x"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
INDEX = "model.safetensors.index.json"


def refusal(error: type[MoeprobeError], source: object, **options: Any) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(source, **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_opens(saved: Callable[..., Path], dtype: str, shard: str) -> None:
    folder = saved("mixtral", dtype, shard)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.source == str(folder)
    assert checkpoint.folder == folder
    assert checkpoint.name == "tiny-mixtral"
    assert checkpoint.revision is None
    assert (checkpoint.model_type, checkpoint.architecture) == ("mixtral", "MixtralForCausalLM")
    assert checkpoint.config["num_local_experts"] == 4
    assert checkpoint.shards == sorted(folder.glob("*.safetensors"))
    assert (len(checkpoint.shards) > 1) == (shard == "20KB")
    assert checkpoint.bytes == sum(shard.stat().st_size for shard in checkpoint.shards)
    assert checkpoint.tokenizer_source == str(folder)
    assert open_checkpoint(folder, tokenizer="other").tokenizer_source == "other"


def test_the_name_of_a_relative_folder(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved("mixtral"))
    assert open_checkpoint(".").name == "tiny-mixtral"


def test_refusing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from moeprobe.checkpoint.open import open_checkpoint\n"
        "from moeprobe.errors import MoeprobeError\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except MoeprobeError: sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "~/no/such", "a/b/c", "no such", "", "a//b", "-x"])
def test_no_such_path(source: str) -> None:
    message = refusal(NotFoundError, source)
    assert "no folder" in message or "is a file" in message


def test_a_file_is_not_a_folder(folder: Callable[..., Path]) -> None:
    path = folder(model__safetensors=WHOLE)
    assert "is no folder; give the folder" in refusal(NotFoundError, path / "model.safetensors")


@pytest.mark.parametrize(
    ("files", "error", "gist"),
    [
        ({}, IncompleteError, "is empty"),
        ({"notes__md": "x"}, IncompleteError, "no config.json"),
        (
            {"adapter_config__json": {}, "adapter_model__safetensors": WHOLE},
            IncompleteError,
            "merge it first",
        ),
        ({"model__gguf": b"GGUF"}, IncompleteError, "GGUF weights only (model.gguf)"),
        ({"config__json": CONFIG}, IncompleteError, "has no weights"),
        ({"config__json": CONFIG, "training_args__bin": b"x"}, IncompleteError, "has no weights"),
        (
            {"config__json": CONFIG, "pytorch_model__bin": b"x"},
            UnsafeError,
            "pickle weights only (pytorch_model.bin)",
        ),
        ({"config__json": CONFIG, "consolidated__00__pth": b"x"}, UnsafeError, "save_pretrained"),
        ({"config__json": CONFIG, "model__gguf": b"x"}, IncompleteError, "GGUF weights only"),
        ({"config__json": CONFIG, "flax_model__msgpack": b"x"}, IncompleteError, "Flax weights only"),
        ({"config__json": CONFIG, "adapter_model__safetensors": WHOLE}, IncompleteError, "merge it first"),
        ({"config__json": CONFIG, ".metadata": b"x"}, IncompleteError, "distributed checkpoint"),
        ({"config__json": CONFIG, "rank_0__distcp": b"x"}, IncompleteError, "distributed checkpoint"),
        (
            {"config__json": CONFIG, "shard-00000-model-00001-of-00001__safetensors": WHOLE},
            IncompleteError,
            "distributed checkpoint",
        ),
        (
            {"config__json": CONFIG, "model-00001-of-00002__safetensors": WHOLE},
            IncompleteError,
            "neither model.safetensors nor model.safetensors.index.json",
        ),
        ({"config__json": "{broken", "model__safetensors": WHOLE}, IncompleteError, "not valid JSON"),
        ({"config__json": b"\xff\xff", "model__safetensors": WHOLE}, IncompleteError, "not UTF-8 text"),
        ({"config__json": POINTER, "model__safetensors": WHOLE}, IncompleteError, "git lfs pull"),
        ({"config__json": {}, "model__safetensors": WHOLE}, IncompleteError, "no model_type"),
        ({"config__json": [1], "model__safetensors": WHOLE}, IncompleteError, "no model_type"),
        (
            {"config__json": {"model_type": "mixtrl"}, "model__safetensors": WHOLE},
            CheckpointError,
            "'mixtrl'",
        ),
        ({"config__json": REMOTE, "model__safetensors": WHOLE}, UnsafeError, "--trust-remote-code"),
        ({"config__json": CONFIG, "model__safetensors": EMPTY}, IncompleteError, "hold no tensors"),
        ({"config__json": CONFIG, "model__safetensors": POINTER}, IncompleteError, "git lfs pull"),
        ({"config__json": CONFIG, "model__safetensors": WHOLE[:-1]}, IncompleteError, "is truncated"),
        ({"config__json": CONFIG, INDEX: "{broken"}, IncompleteError, "not valid JSON"),
        ({"config__json": CONFIG, INDEX: POINTER}, IncompleteError, "git lfs pull"),
        ({"config__json": CONFIG, INDEX: {"weight_map": [1]}}, IncompleteError, "has no weight_map"),
        ({"config__json": CONFIG, INDEX: {}}, IncompleteError, "has no weight_map"),
        ({"config__json": CONFIG, INDEX: {"weight_map": {}}}, IncompleteError, "lists no tensors"),
        (
            {"config__json": CONFIG, INDEX: {"weight_map": {"a": "../a.safetensors"}}},
            IncompleteError,
            "outside",
        ),
        (
            {
                "config__json": CONFIG | {"transformers_weights": "../x.safetensors"},
                "model__safetensors": WHOLE,
            },
            IncompleteError,
            "transformers_weights",
        ),
        (
            {"config__json": CONFIG | {"transformers_weights": "x.bin"}, "model__safetensors": WHOLE},
            IncompleteError,
            "not a safetensors file",
        ),
        (
            {
                "config__json": CONFIG | {"transformers_weights": "x.safetensors.index.json"},
                "model__safetensors": WHOLE,
            },
            IncompleteError,
            "x.safetensors.index.json is missing",
        ),
    ],
)
def test_bad_folders(folder: Callable[..., Path], files: dict[str, Any], error: type[MoeprobeError], gist: str) -> None:
    assert gist in refusal(error, folder(**files))


def test_missing_shards_are_named_and_counted(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("mixtral", shard="20KB"), tmp_path / "copy")
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    message = refusal(IncompleteError, folder)
    assert f"1 of {len(shards)} weight files are missing" in message
    assert shards[1].name in message


def test_a_promised_tensor_that_no_shard_holds(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("mixtral", shard="20KB"), tmp_path / "copy")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = next(iter(index["weight_map"].values()))
    (folder / INDEX).write_text(json.dumps(index))
    message = refusal(IncompleteError, folder)
    assert "promises 1 tensors that no shard holds, the first is model.extra.weight" in message


def test_weights_named_by_the_config(folder: Callable[..., Path]) -> None:
    config = CONFIG | {"transformers_weights": "other.safetensors"}
    path = folder(config__json=config, model__safetensors=WHOLE, other__safetensors=WHOLE)
    assert [shard.name for shard in open_checkpoint(path).shards] == ["other.safetensors"]


def test_remote_code_is_ignored_where_transformers_has_its_own_class(folder: Callable[..., Path]) -> None:
    path = folder(config__json=CONFIG | {"auto_map": REMOTE["auto_map"]}, model__safetensors=WHOLE)
    assert open_checkpoint(path).model_type == "mixtral"


def test_remote_code_that_is_trusted(folder: Callable[..., Path]) -> None:
    path = folder(config__json=REMOTE, model__safetensors=WHOLE)
    assert open_checkpoint(path, trust_remote_code=True).architecture == ""


def test_before_weights_can_refuse_before_weights_are_looked_at(folder: Callable[..., Path]) -> None:
    path = folder(config__json=CONFIG, model__safetensors=b"damaged")
    seen: list[Checkpoint] = []

    def refuse(checkpoint: Checkpoint) -> None:
        seen.append(checkpoint)
        raise NotMoEError("Dense.")

    refusal(NotMoEError, path, before_weights=refuse)
    assert seen[0].shards == []
    assert seen[0].bytes == 0


def test_no_permission(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(config__json=CONFIG, model__safetensors=WHOLE)

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "read", refuse)
    message = refusal(CheckpointError, path)
    assert "No permission to read" in message
    assert "config.json" in message


def test_any_other_reading_error(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(config__json=CONFIG, model__safetensors=WHOLE)

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", refuse)
    assert "Input/output error" in refusal(CheckpointError, path)
