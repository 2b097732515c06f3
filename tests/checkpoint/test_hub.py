import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest

from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.errors import CheckpointError, IncompleteError, NotFoundError, NotMoEError, UnsafeError
from tests.checkpoint.fake_hub import COMMIT, Hub

CONFIG = json.dumps({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}).encode()


@pytest.fixture
def files(saved: Callable[..., Path]) -> dict[str, bytes]:
    folder = saved("mixtral", shard="20KB")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(error: type[CheckpointError], source: str, **options: Any) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(source, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    assert source in message
    return message


def test_only_what_is_needed_is_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    other = {
        "pytorch_model.bin": b"x",
        "original/params.json": b"{}",
        "consolidated.safetensors": b"x",
        "run.py": b"",
    }
    hub.repositories["org/tiny"] = {**files, **other, "tokenizer.json": b"{}", "README.md": b""}
    checkpoint = open_checkpoint("org/tiny")
    assert set(hub.served) == {*files, "tokenizer.json"}
    assert checkpoint.revision == COMMIT
    assert checkpoint.name == "tiny"
    assert len(checkpoint.shards) > 1
    assert checkpoint.bytes == sum(len(files[shard.name]) for shard in checkpoint.shards)


def test_what_was_fetched_opens_offline(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/tiny"] = files
    opened = open_checkpoint("org/tiny")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert open_checkpoint("org/tiny") == opened
    assert open_checkpoint("org/tiny", revision=COMMIT) == opened


def test_half_a_download_offline(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/tiny"] = files

    def stop(_: Checkpoint) -> None:
        raise NotMoEError("Stop.")

    with pytest.raises(NotMoEError):
        open_checkpoint("org/tiny", before_weights=stop)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(IncompleteError, match="weight files are missing"):
        open_checkpoint("org/tiny")


def test_pickle_only_and_gguf_only_are_refused_without_any_download(hub: Hub) -> None:
    hub.repositories["org/pickle"] = {"config.json": CONFIG, "pytorch_model.bin": b"x"}
    hub.repositories["org/gguf"] = {"model.gguf": b"x"}
    assert "pickle weights only" in refusal(UnsafeError, "org/pickle")
    assert "GGUF" in refusal(IncompleteError, "org/gguf")
    assert hub.served == []


def test_a_dense_model_is_refused_before_its_weights(hub: Hub) -> None:
    hub.repositories["org/dense"] = {"config.json": CONFIG, "model.safetensors": b"x"}

    def dense(checkpoint: Checkpoint) -> None:
        raise NotMoEError(f"{checkpoint.source} is dense.")

    refusal(NotMoEError, "org/dense", before_weights=dense)
    assert set(hub.served) == {"config.json"}


def test_a_shard_that_the_repository_does_not_have(hub: Hub, files: dict[str, bytes]) -> None:
    lost = sorted(name for name in files if name.endswith(".safetensors"))[0]
    hub.repositories["org/tiny"] = {name: data for name, data in files.items() if name != lost}
    with pytest.raises(IncompleteError, match=lost):
        open_checkpoint("org/tiny")


@pytest.mark.parametrize(
    ("status", "code", "gist"),
    [
        (404, "RepoNotFound", "no model org/x on the hub"),
        (401, "RepoNotFound", "hf auth login"),
        (401, "", "hf auth login"),
        (403, "", "does not let you read"),
        (403, "GatedRepo", "is gated"),
        (500, "", "cannot be reached"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, status: int, code: str, gist: str) -> None:
    hub.errors["org/x"] = (status, code)
    assert gist in refusal(NotFoundError, "org/x")


def test_a_gate_that_opens_the_list_but_not_the_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/x"] = {"config.json": CONFIG, "model.safetensors": b"x"}
    answer = hub.answer

    def gated(path: str) -> tuple[int, dict[str, str], bytes]:
        return (403, {"X-Error-Code": "GatedRepo"}, b"") if "/resolve/" in path else answer(path)

    monkeypatch.setattr(hub, "answer", gated)
    assert "is gated" in refusal(NotFoundError, "org/x")


def test_no_such_revision(hub: Hub) -> None:
    hub.repositories["org/x"] = {"config.json": CONFIG}
    assert "no revision 'v9'" in refusal(NotFoundError, "org/x", revision="v9")


@pytest.mark.usefixtures("hub")
def test_offline_and_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    message = refusal(NotFoundError, "org/x")
    assert "switched off (HF_HUB_OFFLINE)" in message
    assert "hf download org/x" in message


@pytest.mark.usefixtures("hub")
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached (ConnectError)" in refusal(NotFoundError, "org/x", revision="main")


def test_a_full_disk(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_args: Any, **_options: Any) -> str:
        raise OSError(28, "No space left on device")

    hub.repositories["org/tiny"] = files
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "No space left on device" in refusal(CheckpointError, "org/tiny")
