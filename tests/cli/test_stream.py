"""``--stream``: the same result as in memory, chosen where needed, and every way in which it cannot be done."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.errors import CheckpointError
from moeprobe.findings.result import Result
from moeprobe.records.budget import Budget
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.sightings import Sightings
from tests.commandline import Moeprobe
from tests.zoo.save import save
from tests.zoo.zoo import ZOO

TOKENS = ("--max-tokens", 2000)


def last(text: str) -> str:
    """The refusal; a sentence that says how the model is read may stand before it."""
    assert "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("moeprobe: ")
    return line


def analysed(moeprobe: Moeprobe, model: Path, name: str, *options: object, code: int = 0) -> Result:
    outcome = moeprobe("analyze", model, "-o", name, *TOKENS, *options)
    assert outcome.code == code, outcome.err
    assert ("forward pass fails" in outcome.err) == bool(code)
    return Result.load(f"{name}/result.json")


@pytest.fixture
def sharded(checkpoints: Path, tmp_path: Path) -> Path:
    """The mixtral checkpoint with every layer in a file of its own."""
    source, folder = checkpoints / "mixtral", tmp_path / "sharded"
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {}
    for name in tensors:
        parts = name.split(".")
        table[name] = f"{parts[2]}.safetensors" if parts[1] == "layers" else "outside.safetensors"
    for file in set(table.values()):
        save_file({name: t for name, t in tensors.items() if table[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {' + ", ".join(f'"{name}": "{file}"' for name, file in table.items()) + "}}"
    )
    return folder


@pytest.mark.parametrize("model", ["mixtral", "deepseek_v3", "qwen2_moe"])
def test_the_result_is_that_of_the_run_in_memory(
    moeprobe: Moeprobe, checkpoints: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints / model
    whole = analysed(moeprobe, folder, "whole", "--no-stream", "--save-records")
    by_layer = analysed(moeprobe, folder, "by-layer", "--stream", "--save-records")
    monkeypatch.setattr(Budget, "by_expert", lambda *_: True)
    by_expert = analysed(moeprobe, folder, "by-expert", "--stream")
    assert (whole.environment.streamed, by_layer.environment.streamed) == (None, "layer")
    assert by_layer.evidence.routers == whole.evidence.routers
    assert by_layer.evidence.specialisation == whole.evidence.specialisation
    assert by_layer.evidence.experiments.gradient == whole.evidence.experiments.gradient != {}
    assert by_layer.evidence.probe == whole.evidence.probe
    assert by_layer.model == whole.model
    assert by_layer.environment.experts_implementation == whole.environment.experts_implementation
    loss = {"scale-mismatch", "permuted-experts"}
    assert [c for c in by_layer.checks if c.detector not in loss] == [c for c in whole.checks if c.detector not in loss]
    assert by_expert.environment.streamed == "expert"
    assert by_expert.evidence.routers == whole.evidence.routers
    names = sorted(path.name for path in Path("whole/records").iterdir())
    assert names == sorted(path.name for path in Path("by-layer/records").iterdir())
    for name in names:
        mine, other = load_file(Path("whole/records") / name), load_file(Path("by-layer/records") / name)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_it_is_chosen_and_announced_where_the_weights_exceed_the_memory(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("check", checkpoints / "mixtral", *TOKENS, "--memory", "1MB", "--max-tokens", 300)
    assert outcome.code == 0
    assert "would take 1.15 MB in memory, but there are 1 MB; it is streamed, one" in outcome.err
    enough = moeprobe("check", checkpoints / "mixtral", *TOKENS, "--memory", "1GB")
    assert enough.code == 0
    assert "streamed" not in enough.err
    forbidden = moeprobe("check", checkpoints / "mixtral", *TOKENS, "--memory", "1MB", "--no-stream")
    assert forbidden.code == 0
    assert "streamed" not in forbidden.err


def test_the_loss_tests_are_named_as_not_done(moeprobe: Moeprobe, checkpoints: Path) -> None:
    result = analysed(moeprobe, checkpoints / "mixtral", "out", "--stream")
    left_out = {one.what: one.why for one in result.not_checked}
    assert set(left_out) == {"loss test of the routed branch", "loss test of the learned choice"}
    assert all("streamed" in why for why in left_out.values())
    assert "one layer at a time" in Path("out/report.md").read_text()


def test_too_many_tokens(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("check", checkpoints / "mixtral", "--max-tokens", 60000, "--memory", "6MB", "--stream")
    assert outcome.code == 2
    assert "hidden states" in last(outcome.err)
    fit = last(outcome.err).split("--max-tokens ")[1].split(",")[0]
    assert moeprobe("check", checkpoints / "mixtral", "--max-tokens", fit, "--memory", "6MB", "--stream").code == 0


@pytest.mark.parametrize(
    ("options", "gist"),
    [
        (("--memory", "plenty"), "8GB"),
        (("--memory", "0"), "8GB"),
        (("--stream", "--memory", "10kB"), "more with --memory"),
        (("--stream", "--device-map", "auto"), "one device"),
    ],
)
def test_bad_options(moeprobe: Moeprobe, checkpoints: Path, options: tuple[str, ...], gist: str) -> None:
    outcome = moeprobe("check", checkpoints / "mixtral", *TOKENS, *options)
    assert outcome.code == 2
    assert gist in outcome.sentence


def test_what_experts_do_is_asked_of_a_streamed_model_as_well(moeprobe: Moeprobe, checkpoints: Path) -> None:
    whole, streamed = (
        analysed(moeprobe, checkpoints / "mixtral", out, option, "--recipe", "specialisation")
        for out, option in (("whole", "--no-stream"), ("streamed", "--stream"))
    )
    assert whole.evidence.specialisation is not None
    assert all(one.specialisation for one in whole.evidence.routers)
    assert streamed.evidence.specialisation == whole.evidence.specialisation
    assert streamed.evidence.routers == whole.evidence.routers


@pytest.mark.parametrize(
    ("options", "gist"),
    [
        (("--stream", "--parallel", "tensor"), "--stream is for one process"),
        (("--memory", "1MB", "--parallel", "expert"), "--memory is for one process"),
        (("--stream", "--weights-only"), "--stream has no meaning"),
    ],
)
def test_what_does_not_go_with_streaming(
    moeprobe: Moeprobe, checkpoints: Path, options: tuple[str, ...], gist: str
) -> None:
    outcome = moeprobe("check", checkpoints / "mixtral", *options)
    assert outcome.code == 2
    assert gist in outcome.sentence


def test_progress_of_a_run_in_memory_is_not_lost_to_a_streamed_one(
    moeprobe: Moeprobe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = ("analyze", checkpoints / "mixtral", "-o", "out", *TOKENS)
    keep, kept = Bookmark.keep, []

    def interrupted(bookmark: Bookmark, seen: Sightings) -> None:
        keep(bookmark, seen)
        kept.append(seen)
        raise CheckpointError("pulled the plug")

    with monkeypatch.context() as during:
        during.setattr(Bookmark, "keep", interrupted)
        assert moeprobe(*analysis).code == 2
        streamed = moeprobe(*analysis, "--stream", "--restart")
        assert (streamed.code, len(kept)) == (0, 1)
        assert moeprobe(*analysis).code == 2
    refused = moeprobe(*analysis, "--stream")
    assert refused.code == 2
    assert "leave out --stream to go on" in last(refused.err)
    assert moeprobe(*analysis).code == 0
    assert not Path("out/.progress").exists()


def test_experts_of_another_size_than_the_config_says(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    outcome = moeprobe("check", folder, *TOKENS, "--stream", "-q")
    assert outcome.code == 2
    assert "by config.json" in last(outcome.err)


def test_an_encoder_decoder_is_refused_or_loaded_whole(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = save(next(case for case in ZOO if case.name == "switch_transformers"), tmp_path / "switch")
    outcome = moeprobe("check", folder, *TOKENS, "--stream")
    assert outcome.code == 2
    assert "two stacks" in outcome.sentence
    assert moeprobe("check", folder, "--max-tokens", 300, "--memory", "1kB").code in (0, 1)


def interfere(monkeypatch: pytest.MonkeyPatch, layer: int, act: object) -> None:
    """Do something right before a layer is read."""
    enter = LayerStream.enter

    def acting(stream: LayerStream, path: str) -> None:
        if path.endswith(f".{layer}"):
            act()  # type: ignore[operator]
        enter(stream, path)

    monkeypatch.setattr(LayerStream, "enter", acting)


def test_a_shard_that_vanishes_in_the_middle(moeprobe: Moeprobe, sharded: Path, monkeypatch) -> None:
    interfere(monkeypatch, 2, lambda: (sharded / "2.safetensors").unlink())
    before = threading.active_count()
    outcome = moeprobe("check", sharded, *TOKENS, "--stream", "-q")
    assert outcome.code == 2
    assert "2.safetensors was there at the start and is gone now" in outcome.sentence
    assert threading.active_count() == before


def test_a_shard_that_is_cut_in_the_middle(moeprobe: Moeprobe, sharded: Path, monkeypatch) -> None:
    file = sharded / "1.safetensors"
    interfere(monkeypatch, 1, lambda: file.write_bytes(file.read_bytes()[:-5000]))
    before = threading.active_count()
    outcome = moeprobe("check", sharded, *TOKENS, "--stream", "-q")
    assert outcome.code == 2
    assert "1.safetensors has become shorter" in outcome.sentence
    assert threading.active_count() == before


def test_an_error_of_one_batch_ends_all_and_the_weights_are_still_judged(
    moeprobe: Moeprobe, bundled: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundled, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    name = sorted(n for n in tensors if n.endswith("tid2eid"))[-1]
    tensors[name].view(-1)[:4096] = 16
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    before = threading.active_count()
    whole, streamed = (
        analysed(moeprobe, folder, out, option, code=2) for out, option in (("a", "--no-stream"), ("b", "--stream"))
    )
    assert threading.active_count() == before
    assert [f.fingerprint for f in streamed.findings] == [f.fingerprint for f in whole.findings]
    assert [one.why for one in streamed.not_checked] == [one.why for one in whole.not_checked]
    assert all(r.activations is None for r in streamed.evidence.routers)
    weights = [(r.weights, r.experts) for r in whole.evidence.routers]
    assert [(r.weights, r.experts) for r in streamed.evidence.routers] == weights


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted(checkpoints: Path, tmp_path: Path) -> None:
    """Ctrl-C while all but one batch are waiting."""
    code = (
        "import time, sys\n"
        "from moeprobe.checkpoint.streamed import LayerStream\n"
        "enter = LayerStream.enter\n"
        "def slow(stream, path):\n"
        "    enter(stream, path)\n"
        "    print('entered', flush=True)\n"
        "    time.sleep(30)\n"
        "LayerStream.enter = slow\n"
        "from moeprobe.cli import run\n"
        f"sys.argv = ['moeprobe', 'check', {str(checkpoints / 'mixtral')!r}, '--stream', '--max-tokens', '2000']\n"
        "run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "entered\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=25)
    assert time.monotonic() - started < 20
    assert process.returncode == 2
    assert "Traceback" not in err
