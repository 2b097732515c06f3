"""Killed at any point, the same command goes on and gives the same bytes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from moeprobe.findings.result import Result
from moeprobe.records.budget import Budget
from moeprobe.records.saved import SavedRecords
from tests.commandline import Moeprobe

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: small
probe: {max_tokens: 900, max_length: 60, batch_tokens: 120}
scale: {max_tokens: 300, max_length: 40, single_layers: 1}
choice: {max_tokens: 200, max_length: 40, repetitions: 1}
"""


@pytest.fixture
def arguments(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "small.yaml").write_text(RECIPE)
    return ["analyze", str(checkpoints / "mixtral"), "--recipe", "small.yaml", "-o", "out", "--save-records", "-q"]


def interrupted(points: list[tuple[str, float]], arguments: list[str], folder: Path) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.resume.driver", json.dumps(points), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.strip().splitlines()[-1]
    return list(json.loads(last.removeprefix("ended ")))


@pytest.mark.parametrize(("model", "by_expert"), [("mixtral", False), ("deepseek_v3", True)])
def test_a_streamed_one_killed_at_random_layers(
    moeprobe: Moeprobe,
    arguments: list[str],
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    by_expert: bool,
) -> None:
    if by_expert:
        monkeypatch.setattr(Budget, "by_expert", lambda *_: True)
        monkeypatch.setenv("BY_EXPERT", "1")
    arguments = [*arguments, "--stream"]
    arguments[1] = str(checkpoints / model)
    outcome = moeprobe(*arguments)
    assert outcome.code == 0, outcome.err
    again = tmp_path / "again"
    again.mkdir()
    (again / "small.yaml").write_text(RECIPE)
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    layers = json.loads((checkpoints / model / "config.json").read_text())["num_hidden_layers"]
    batches = len(list(Path("out/records").glob("batch-*")))
    each = batches + 1
    points: list[tuple[str, float]] = [
        ("after", 1 + each),  # the declaration, and all of the first layer
        ("half", draw.randint(2, each)),
        ("before", draw.randint(1, each)),
        ("after", draw.randint(each, (layers - 1) * each - 1)),
        ("half", draw.randint(1, each)),
    ]
    ended = interrupted(points, arguments, again)
    assert ended[-1] == 0, (seed, ended)
    assert ended.count(-9) >= 4, (seed, ended)
    assert (again / "out/result.json").read_bytes() == Path("out/result.json").read_bytes(), (seed, ended)
    assert not (again / "out/.progress").exists()
    for file in Path("out/records").iterdir():
        assert (again / "out/records" / file.name).read_bytes() == file.read_bytes()
    assert Result.load("out/result.json").environment.streamed == ("expert" if by_expert else "layer")


def test_killed_at_random_points(moeprobe: Moeprobe, arguments: list[str], tmp_path: Path) -> None:
    outcome = moeprobe(*arguments)
    assert outcome.code == 0, outcome.err
    assert not Path("out/.progress").exists()
    again = tmp_path / "again"
    again.mkdir()
    (again / "small.yaml").write_text(RECIPE)
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    points: list[tuple[str, float]] = [
        ("before", draw.randint(2, 4)),
        ("half", draw.randint(1, 3)),
        ("time", draw.uniform(0, 0.2)),
        ("after", draw.randint(1, 6)),
        ("half", 1),
    ]
    ended = interrupted(points, arguments, again)
    assert ended[-1] == 0
    assert ended.count(-9) >= 4, (seed, ended)
    assert (again / "out/result.json").read_bytes() == Path("out/result.json").read_bytes(), (seed, ended)
    assert not (again / "out/.progress").exists()
    records = sorted(path.name for path in Path("out/records").iterdir())
    assert len(records) > 6
    for name in records:
        assert (again / "out/records" / name).read_bytes() == (Path("out/records") / name).read_bytes()
    result = Result.load(again / "out/result.json")
    assert result.evidence.probe is not None
    # The saved result and its records can still be compared with.
    SavedRecords(again / "out/records", [one.router for one in result.evidence.routers], result.evidence.probe.tokens)
