"""What is written never takes the place of what is read; refused before the analysis."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.commandline import Moeprobe

SHORT = ("--recipe", "quick", "--max-tokens", "600", "--quiet")


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "model"))


def digests(*folders: Path) -> dict[str, str]:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def no_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is refused before the model is opened."""
    import moeprobe.comparison as comparison
    import moeprobe.pipeline as pipeline

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the model was opened")

    for module in (pipeline, comparison):
        monkeypatch.setattr(module, "open_model", opened)


@pytest.mark.parametrize(
    "target",
    [
        "model/config.json", "model/CONFIG.JSON", "model/../model/config.json", "link/config.json",
        "model/model.safetensors", "model/tokenizer.json", "model/tokenizer_config.json",
        "model/generation_config.json", "model/README.md", "model/own.json", "model/preprocessor_config.json",
        "model/model.safetensors.index.json", "model/vocab.txt", "symbolic.json", "hard.json",
        "./link/../model/config.json",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_analysis")
def test_the_checkpoint(moeprobe: Moeprobe, folder: Path, target: str) -> None:
    (folder / "own.json").write_text('{"own": 1}')
    Path("link").symlink_to(folder)
    Path("symbolic.json").symlink_to(folder / "config.json")
    os.link(folder / "config.json", "hard.json")
    before = digests(folder)
    outcome = moeprobe("check", folder, "--output", f"json={target}")
    assert outcome.code == 2
    assert "checkpoint" in outcome.sentence
    assert digests(folder) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "own.yaml", "--output", "json=own.yaml"], "a recipe or policy that is read"),
        (["--recipe", "own.yaml", "--output", "json=below.yaml"], "a recipe or policy that is read"),
        (["--output", "text=moeprobe.toml"], "a recipe or policy that is read"),
        (["--probe", "texts.txt", "--output", "text=texts.txt"], "the probe text"),
        (["--probe", "texts", "--output", "text=texts/a/new.txt"], "in the folder of the probe texts"),
        (["--baseline", "base/result.json", "--output", "json=base/result.json"], "the baseline"),
        (["--baseline", "base", "--output", "json=base/result.json"], "the baseline"),
        (["--tokenizer", "other", "--output", "json=other/tokenizer.json"], "checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("no_analysis")
def test_everything_else_that_is_read(
    moeprobe: Moeprobe, folder: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    Path("own.yaml").write_text("name: own\ninclude: below.yaml\n")
    Path("below.yaml").write_text("name: below\n")
    Path("moeprobe.toml").write_text("")
    Path("texts.txt").write_text("word " * 100)
    Path("texts/a").mkdir(parents=True)
    Path("texts/a/1.txt").write_text("word " * 100)
    Path("base").mkdir()
    Path("base/result.json").write_text("{}")
    shutil.copytree(folder, "other")
    before = digests(tmp_path)
    outcome = moeprobe("check", folder, *options)
    assert outcome.code == 2
    assert words in outcome.err.splitlines()[-1]
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyze", "model", "-o", "base", "--baseline", "base"], "the baseline"),
        (["analyze", "model", "-o", "texts", "--probe", "texts"], "in the folder of the probe texts"),
        (["analyze", "model", "-o", "texts/a", "--probe", "texts"], "in the folder of the probe texts"),
        (["analyze", "out/.progress/model", "-o", "out"], "the model"),
        (["analyze", "out/records", "-o", "out"], "the model"),
        (["diff", "base", "model", "-o", "base"], "a saved result that is compared"),
        (["diff", "model", "base/result.json", "-o", "base"], "a saved result that is compared"),
        (["diff", "model", "model", "--output", "json=model/config.json"], "checkpoint"),
        (["gates", "model", "-o", "texts", "--probe", "texts"], "in the folder of the probe texts"),
        (["report", "base", "-o", "model/config.json"], "checkpoint"),
        (["report", "base", "-o", "base/result.json"], "the result itself"),
        (["analyze", "model", "-o", "taken"], "it is a folder, not a file"),
        (["gates", "model", "-o", "taken"], "it is a folder, not a file"),
        (["analyze", "model", "-o", "figured"], "it is no folder"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("no_analysis")
def test_folders(moeprobe: Moeprobe, folder: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    for where in ("out/.progress/model", "out/records"):
        shutil.copytree(folder, where)
    Path("texts/a").mkdir(parents=True)
    Path("texts/a/1.txt").write_text("word " * 100)
    Path("base").mkdir()
    Path("base/result.json").write_text('{"schema_version": 1}')
    for name in ("report.md", "gates.md"):
        Path("taken", name).mkdir(parents=True)
    Path("figured").mkdir()
    Path("figured/figures").write_text("")
    before = digests(tmp_path)
    outcome = moeprobe(*arguments)
    assert outcome.code == 2
    assert words in outcome.sentence
    assert digests(tmp_path) == before


def test_reports_beside_the_weights_are_fine(moeprobe: Moeprobe, folder: Path) -> None:
    """Also a second time, over what the first run has written."""
    read = digests(folder)
    for _ in range(2):
        files = [f"--output={name}={folder}/moeprobe.{name}" for name in ("json", "sarif", "html", "markdown")]
        assert moeprobe("check", folder, "--weights-only", *files, f"--output=json={folder}/routing.json").code == 0
        assert moeprobe("analyze", folder, "--weights-only", "-o", folder).code == 0
    assert digests(folder).items() >= read.items()
    json.loads((folder / "result.json").read_text())
