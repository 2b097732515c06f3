"""Two processes on the CPU make the result of one."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moeprobe.comparison import diff
from moeprobe.errors import ParallelError
from moeprobe.parallel import launch
from tests.commandline import Moeprobe

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: small
probe: {max_tokens: 900, max_length: 60, batch_tokens: 120}
scale: {max_tokens: 200, max_length: 40, single_layers: 1}
choice: {max_tokens: 200, max_length: 40, repetitions: 1}
"""
Ended = tuple[int, str]


def two(folder: Path, *arguments: list[str]) -> list[Ended]:
    """The command in two processes, with arguments of their own: exit code and stderr of each."""
    (folder / "small.yaml").write_text(RECIPE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "moeprobe", *own],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(arguments)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, err) for process, err in zip(started, said, strict=True)]


def differences(one: Any, two: Any, tolerance: float, path: str = "") -> list[str]:
    """Where two results differ: in anything but floats within the relative tolerance."""
    if isinstance(one, dict) and isinstance(two, dict) and list(one) == list(two):
        return [place for key in one for place in differences(one[key], two[key], tolerance, f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [place for i, (a, b) in pairs for place in differences(a, b, tolerance, f"{path}/{i}")]
    if isinstance(one, float) and isinstance(two, float):
        return [] if math.isclose(one, two, rel_tol=tolerance, abs_tol=1e-12) else [f"{path}: {one} {two}"]
    return [] if one == two else [f"{path}: {one} {two}"]


def evidence(folder: str) -> Any:
    return json.loads(Path(folder, "result.json").read_text())


def analyze(checkpoint: Path, output: str, *more: str) -> list[str]:
    return ["analyze", str(checkpoint), "--recipe", "small.yaml", "-q", "-o", output, *more]


def test_two_share_the_texts(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    command = analyze(checkpoints / "deepseek_v3", "two", "--save-records")
    ended = two(tmp_path, command, command)
    assert [code for code, _ in ended] == [0, 0], ended
    assert ended[0][1].strip() == "Processes: 2, which share the texts."
    assert moeprobe(*analyze(checkpoints / "deepseek_v3", "one", "--save-records")).code == 0
    one, other = evidence("one"), evidence("two")
    assert one["evidence"]["experiments"]["choice"]
    assert other.pop("environment")["processes"] == 2
    assert one.pop("environment")["processes"] == 1
    assert differences(one, other, 1e-9) == []
    names = [path.name for path in sorted(Path("one/records").iterdir())]
    assert len(names) > 5
    assert [path.name for path in sorted(Path("two/records").iterdir())] == names
    assert all(Path("one/records", name).read_bytes() == Path("two/records", name).read_bytes() for name in names)
    assert not Path("two/.progress").exists()


def test_two_share_the_experts(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    """Both see every token; it is counted once, and the number of experts is that of both together."""
    few = ("--dtype", "float32", "--recipe", "quick", "--max-tokens", "600")
    expert = analyze(checkpoints / "qwen3_moe", "two", *few, "--parallel", "expert")
    ended = two(tmp_path, expert, expert)
    assert [code for code, _ in ended] == [0, 0], ended
    assert moeprobe(*analyze(checkpoints / "qwen3_moe", "one", *few)).code == 0
    pairs = zip(evidence("one")["evidence"]["routers"], evidence("two")["evidence"]["routers"], strict=True)
    for one, other in pairs:
        for facts in (one["router"], other["router"]):
            del facts["fit_error"]
        assert differences(one["router"], other["router"], 1e-6) == []
        assert one["activations"]["load"] == other["activations"]["load"]
        assert other["experts"]["reason"] == "the experts are spread over several processes"


def test_a_process_that_fails_ends_both(checkpoints: Path, tmp_path: Path) -> None:
    command = analyze(checkpoints / "mixtral", "two")
    (first, said), (second, own) = two(tmp_path, command, [*command, "--tokenizer", "./nowhere"])
    assert (first, second) == (2, 2)
    for words in (said, own):
        assert "Traceback" not in words
        assert "Process 1 of 2 failed: " in words
        assert "./nowhere" in words
    assert not (tmp_path / "two/result.json").exists()


def test_a_launcher_that_started_fewer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launch.misled() is None
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert launch.misled() is None
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # accelerate sets it for several processes only
    assert "torchrun" in str(launch.misled())


def test_bad_ways_to_spread(moeprobe: Moeprobe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = moeprobe("analyze", checkpoints / "mixtral", "--parallel", "tensor", "-o", "out")
    assert outcome.code == 2
    assert "torchrun" in outcome.sentence
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParallelError, match="one process"):
        diff(checkpoints / "mixtral", checkpoints / "mixtral")
