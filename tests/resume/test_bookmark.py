"""What is kept of an interrupted analysis, and what is refused to go on from it."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moeprobe.errors import OptionError, ResumeError
from moeprobe.findings.evidence import ScalePoint
from moeprobe.parallel.crew import Crew
from moeprobe.resume import bookmark
from moeprobe.resume.bookmark import Bookmark
from moeprobe.resume.identity import read
from moeprobe.resume.shared import SharedWork
from moeprobe.resume.snapshot import Snapshot
from tests.commandline import Moeprobe
from tests.resume.stopping import stop, texts

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: small
probe: {texts: texts.jsonl, max_tokens: 300, max_length: 60, batch_tokens: 120}
scale: {max_tokens: 0}
choice: {max_tokens: 0}
"""
Interrupt = Callable[[int], list[str]]


@pytest.fixture
def interrupt(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> Interrupt:
    """Start an analysis and stop it at the n-th time that progress is written; gives its arguments."""
    model = shutil.copytree(checkpoints / "mixtral", tmp_path / "model")
    (tmp_path / "small.yaml").write_text(RECIPE)
    texts(tmp_path, 0)

    def start(writes: int) -> list[str]:
        arguments = ["analyze", str(model), "--recipe", "small.yaml", "-o", "out", "-q"]
        stop(moeprobe, arguments, bookmark, writes)
        assert Path("out/.progress/batches-0-of-1.safetensors").is_file()
        assert not Path("out/result.json").exists()
        return arguments

    return start


def test_what_was_begun_is_ended_and_removed(moeprobe: Moeprobe, interrupt: Interrupt) -> None:
    arguments = interrupt(3)
    outcome = moeprobe(*arguments)
    assert outcome.code == 0, outcome.err
    assert not Path("out/.progress").exists()
    assert Path("out/result.json").exists()


def test_another_recipe_is_refused(moeprobe: Moeprobe, interrupt: Interrupt) -> None:
    arguments = interrupt(3)
    outcome = moeprobe(*arguments, "--max-tokens", "200")
    assert outcome.code == 2
    assert "another recipe" in outcome.sentence
    assert "--restart" in outcome.sentence
    assert moeprobe(*arguments, "--max-tokens", "200", "--restart").code == 0


def test_other_options_are_refused(moeprobe: Moeprobe, interrupt: Interrupt) -> None:
    arguments = interrupt(3)
    assert "--dtype" in moeprobe(*arguments, "--dtype", "float32").sentence
    assert "--save-records" in moeprobe(*arguments, "--save-records").sentence


def test_other_texts_are_refused(moeprobe: Moeprobe, interrupt: Interrupt, tmp_path: Path) -> None:
    arguments = interrupt(3)
    texts(tmp_path, 1)
    outcome = moeprobe(*arguments)
    assert outcome.code == 2
    assert "other texts" in outcome.sentence


def test_changed_weights_are_refused(moeprobe: Moeprobe, interrupt: Interrupt, tmp_path: Path) -> None:
    arguments = interrupt(3)
    file = tmp_path / "model/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    outcome = moeprobe(*arguments)
    assert outcome.code == 2
    assert "changed weights" in outcome.sentence


@pytest.mark.parametrize("name", ["batches-0-of-1.safetensors", "analysis.json"])
def test_damage_is_noticed(moeprobe: Moeprobe, interrupt: Interrupt, name: str) -> None:
    arguments = interrupt(3)
    file = Path("out/.progress") / name
    file.write_bytes(file.read_bytes()[:100])
    outcome = moeprobe(*arguments)
    assert outcome.code == 2
    assert "--restart" in outcome.sentence
    assert moeprobe(*arguments, "--restart").code == 0


def test_a_full_disk_keeps_what_was_there(moeprobe: Moeprobe, interrupt: Interrupt, tmp_path: Path) -> None:
    arguments = interrupt(3)
    kept = Path("out/.progress/batches-0-of-1.safetensors")
    before = kept.read_bytes()
    limit = (len(before) // 2, resource.RLIM_INFINITY)
    done = subprocess.run(
        [sys.executable, "-m", "moeprobe", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "make room" in done.stderr
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir() if path.suffix == ".partial"] == []
    assert moeprobe(*arguments).code == 0


def test_a_model_in_memory_cannot_be_told_from_another() -> None:
    with pytest.raises(OptionError, match="already loaded"):
        read(None, None, None)  # type: ignore[arg-type]


def test_a_finished_loss_test_is_not_run_again(tmp_path: Path) -> None:
    def no(name: str) -> ScalePoint:
        raise AssertionError(name)

    first = Bookmark(tmp_path / "kept", Crew())
    done = SharedWork(Crew(), first)(ScalePoint, ["a", "b"], lambda name: ScalePoint(multiplier=1, loss=len(name) / 3))
    again = SharedWork(Crew(), first)(ScalePoint, ["a", "b"], no)
    assert again == done == [ScalePoint(multiplier=1, loss=1 / 3)] * 2


def test_a_snapshot_keeps_every_bit() -> None:
    odd = torch.tensor([0.1, -0.0, float("nan"), float("-inf"), 5e-324], dtype=torch.float64)
    tensors = {"a/b": odd, "a/c": torch.zeros(0, 4, dtype=torch.int64), "d": torch.ones(2, dtype=torch.bfloat16)}
    found = Snapshot.parse(Snapshot(tensors, {"word": "ä\n"}).dump())
    assert found.words == {"word": "ä\n"}
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].numpy(force=True).tobytes() == tensor.numpy().tobytes() if name != "d" else True
    assert found.part("a").keys() == {"b", "c"}
    with pytest.raises(ValueError, match="snapshot"):
        Snapshot.parse(b"nothing of that kind")


def test_nothing_is_promised_without_a_state(tmp_path: Path) -> None:
    """An analysis that was killed before its first batch leaves nothing to go on from, and nothing to refuse."""
    first = Bookmark(tmp_path / "kept", Crew())
    first.expect({"recipe": "a"})
    Bookmark(tmp_path / "kept", Crew()).expect({"recipe": "b"})
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/analysis.json").write_text('{"started": 1.0, "identity": {"recipe": "a"}}')
    with pytest.raises(ResumeError, match="another recipe"):
        Bookmark(tmp_path / "kept", Crew()).expect({"recipe": "b"})
