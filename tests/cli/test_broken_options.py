"""Options and variables of the environment that nobody can mean: one sentence, exit 2, before anything is read."""

import shutil
from pathlib import Path

import pytest

from tests.commandline import Moeprobe, Outcome


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "model"))


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert "does not know" not in outcome.sentence
    for word in words:
        assert word in outcome.sentence


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "bf16"], ["--dtype", ""], ["--dtype", "float8_e4m3fn"],
        ["--memory", "1e400GB"], ["--memory", "nan"],
        ["--memory", "-1GB"], ["--memory", "9" * 5000], ["--memory", "9" * 400 + "TB"], ["--memory", "0"],
        ["--memory", "\N{SUPERSCRIPT TWO}GB"], ["--max-tokens", "9" * 30], ["--max-tokens", "9" * 5000],
        ["--limit", "flat-scores.std_error=1e400"], ["--limit", "flat-scores.std_error=nan"],
        ["--device-map", "cuda:" + "9" * 40], ["--device-map", "cpu:99999999999999"], ["--tokenizer", "/dev/zero"],
        ["-o", "/dev/null"], ["-o", "/dev/null/x"], ["--recipe", "~nobody-at-all/x.yaml"],
    ],
    ids=lambda options: " ".join(options)[:40],
)  # fmt: skip
def test_options(moeprobe: Moeprobe, folder: Path, options: list[str]) -> None:
    outcome = moeprobe("analyze", folder, *options)
    refused(outcome)
    assert len(outcome.sentence) < 1000
    assert not Path("reports").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "9" * 30], ["--seed", "-1"], ["--rows", "9" * 30], ["--updates", "9" * 30], ["--step", "nan"],
        ["--step", "1e400"], ["--layers", "9" * 5000], ["--layers", "0-999999999"], ["--max-tokens", "9" * 30],
    ],
    ids=lambda options: " ".join(options)[:40],
)  # fmt: skip
def test_options_of_the_laboratory(moeprobe: Moeprobe, folder: Path, options: list[str]) -> None:
    refused(moeprobe("gates", folder, *options))


def test_the_largest_seed(moeprobe: Moeprobe, folder: Path) -> None:
    seed = 2**63 - 1
    sizes = ["--rows", 300, "--updates", 3, "--layers", 0, "--max-tokens", 1200, "-o", "out", "-q"]
    assert moeprobe("gates", folder, "--seed", seed, *sizes).code == 0
    Path("own.yaml").write_text(f"name: own\ninclude: quick\nseed: {seed}\nprobe: {{max_length: 1000000000000}}\n")
    assert moeprobe("analyze", folder, "--recipe", "own.yaml", "--max-tokens", 600, "-q").code == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOURCE_DATE_EPOCH", "\N{SUPERSCRIPT TWO}"),
        ("SOURCE_DATE_EPOCH", "1" + "0" * 30),
        ("HF_ENDPOINT", "http://[::1"),
    ],
)
def test_the_environment(
    moeprobe: Moeprobe, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for arguments in (
        ["analyze", folder],
        ["check", folder, "--weights-only"],
        ["diff", folder, folder],
        ["gates", folder],
    ):
        refused(moeprobe(*arguments), name)


def test_a_hub_that_is_none(moeprobe: Moeprobe, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "ftp://x")
    refused(moeprobe("analyze", "organisation/name"), "HF_ENDPOINT")
    refused(moeprobe("check", "organisation/name", "--weights-only"), "HF_ENDPOINT")
    assert moeprobe("check", folder, "--weights-only").code == 0
