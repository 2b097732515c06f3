"""Every bad input gets one sentence that says what to do, exit 2, no traceback, and nothing half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commandline import Moeprobe, Outcome


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of a small healthy checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    for word in words:
        assert word.lower() in outcome.sentence.lower(), outcome.sentence
    assert not Path("reports").exists()


def test_no_such_path(moeprobe: Moeprobe) -> None:
    refused(moeprobe("analyze", "./nowhere/at/all"), "nowhere")


HOSTILE = "evil`x`<b>\n::error::owned \u202e\x1b[31m ##[group]"


@pytest.mark.parametrize("command", ["analyze", "diff"])
def test_a_hostile_path_does_nothing_to_a_log(moeprobe: Moeprobe, checkpoints: Path, command: str) -> None:
    """The path is printed and written in reports; a folder can be called anything."""
    folder = shutil.copytree(checkpoints / "mixtral", Path(HOSTILE))
    models = [folder] if command == "analyze" else [folder, folder]
    outcome = moeprobe(command, *models, "--recipe", "quick", "--max-tokens", "1500")
    assert outcome.code == 0, outcome.err
    shutil.rmtree(folder)
    refusal = moeprobe(command, *models)
    assert refusal.code == 2
    for said in (outcome.out + outcome.err, refusal.sentence):
        assert "Report: " in said or "no folder" in said
        assert not [line for line in said.splitlines() if line.startswith("::")]
        assert not {"\u202e", "\x1b"} & set(said)
        assert "##[" not in said


def test_dense_model(moeprobe: Moeprobe, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    refused(moeprobe("analyze", tmp_path / "dense"), "dense model")


def test_no_config(moeprobe: Moeprobe, folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(moeprobe("analyze", folder), "config.json")


def test_no_weights(moeprobe: Moeprobe, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(moeprobe("analyze", folder), "weights")


def test_no_tokenizer(moeprobe: Moeprobe, folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(moeprobe("analyze", folder), "--tokenizer")


def test_a_tokenizer_from_elsewhere(moeprobe: Moeprobe, folder: Path, checkpoints: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    outcome = moeprobe(
        "analyze", folder, "--tokenizer", checkpoints / "mixtral", "--recipe", "quick", "--max-tokens", 600
    )
    assert outcome.code == 0, outcome.err


def test_truncated_weights(moeprobe: Moeprobe, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(moeprobe("analyze", folder), "model.safetensors", "truncated")


def test_corrupt_weights(moeprobe: Moeprobe, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all" + weights.read_bytes()[24:])
    refused(moeprobe("analyze", folder), "model.safetensors")


def test_missing_shard(moeprobe: Moeprobe, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(moeprobe("analyze", folder), "model-00002-of-00002.safetensors")


def test_missing_tensor(moeprobe: Moeprobe, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gate = next(n for n in tensors if n.endswith("gate.weight"))
    del tensors[gate]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(moeprobe("analyze", folder), "gate.weight")


def test_only_pickle(moeprobe: Moeprobe, folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(moeprobe("analyze", folder), "pickle", "safetensors")


def test_remote_code(moeprobe: Moeprobe, folder: Path) -> None:
    (folder / "modeling_own.py").write_text("raise SystemExit('executed')")
    edit_config(folder, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    refused(moeprobe("analyze", folder), "--trust-remote-code")


def test_unknown_model_type(moeprobe: Moeprobe, folder: Path) -> None:
    edit_config(folder, model_type="nothing_like_it")
    refused(moeprobe("analyze", folder), "nothing_like_it")


def test_config_that_is_not_json(moeprobe: Moeprobe, folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refused(moeprobe("analyze", folder), "config.json", "JSON")


def test_empty_probe(moeprobe: Moeprobe, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    refused(moeprobe("analyze", folder, "--probe", tmp_path / "empty.txt"), "empty.txt")


def test_no_such_probe(moeprobe: Moeprobe, folder: Path) -> None:
    refused(moeprobe("analyze", folder, "--probe", "./nothing.jsonl"), "nothing.jsonl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "fulll"], ["unknown recipe", "did you mean 'full'"]),
        (["--select", "flat-scorse"], ["flat-scorse", "flat-scores"]),
        (["--ignore", "MP9"], ["MP9"]),
        (["--limit", "flat-scores.std_err=1"], ["std_err"]),
        (["--limit", "flat-scores"], ["--limit"]),
        (["--limit", "flat-scores.std_error=abc"], ["--limit"]),
        (["--dtype", "float8"], ["float8"]),
        (["--max-tokens", "0"], ["max-tokens"]),
        (["--nonsense"], ["--nonsense"]),
        (["--device-map", "cuda:99"], ["cuda:99"]),
    ],
    ids=lambda value: value[0].lstrip("-") if value and value[0].startswith("-") else "",
)
def test_wrong_option(moeprobe: Moeprobe, folder: Path, options: list[str], words: list[str]) -> None:
    refused(moeprobe("analyze", folder, *options), *words)


def test_unknown_command(moeprobe: Moeprobe) -> None:
    refused(moeprobe("analyse", "x"), "did you mean 'analyze'")


def test_no_model_given(moeprobe: Moeprobe) -> None:
    refused(moeprobe("analyze"), "MODEL")


def test_explain_an_unknown_detector(moeprobe: Moeprobe) -> None:
    refused(moeprobe("explain", "flat-scorse"), "flat-scores")


def test_output_below_a_file(moeprobe: Moeprobe, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(moeprobe("analyze", folder, "-o", tmp_path / "file" / "report"), "cannot write")
    assert (tmp_path / "file").read_text() == ""


def test_full_disk(moeprobe: Moeprobe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is complete before a figure is drawn; a disk that is full then loses nothing written."""
    import moeprobe.findings.result as result

    real, written = result.tempfile.NamedTemporaryFile, []

    def full(*args: object, **kwargs: object) -> object:
        written.append(kwargs.get("prefix"))
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(result.tempfile, "NamedTemporaryFile", full)
    outcome = moeprobe("analyze", folder, "-o", tmp_path / "out", "--recipe", "quick", "--max-tokens", 600)
    assert outcome.code == 2
    assert "No space left" in outcome.sentence
    json.loads((tmp_path / "out" / "result.json").read_text())
    left = [p.name for p in (tmp_path / "out").rglob("*") if p.name.startswith(".")]
    assert left == [".progress"]  # the same command goes on from it


def test_hub_unreachable(moeprobe: Moeprobe) -> None:
    refused(moeprobe("analyze", "nobody/no-such-model"), "nobody/no-such-model")


def test_nan_weights_are_a_finding_not_a_crash(moeprobe: Moeprobe, folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gates = sorted(n for n in tensors if n.endswith("gate.weight"))
    tensors[gates[1]][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    outcome = moeprobe("analyze", folder, "-o", tmp_path / "out", "--recipe", "quick", "--max-tokens", 2000)
    assert outcome.code == 0, outcome.err
    findings = json.loads((tmp_path / "out" / "result.json").read_text())["findings"]
    assert findings[0]["severity"] == "error"
    assert findings[0]["layer"] == 1


def test_interrupt(folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "moeprobe", "analyze", str(folder), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("the analysis was over before it could be interrupted")
    assert process.returncode == 2
    assert err.strip() == "moeprobe: Interrupted. Nothing that was already written is lost."
    # Nothing but progress, from which the same command goes on.
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {".progress"}
