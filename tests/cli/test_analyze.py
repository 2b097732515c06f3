"""``moeprobe analyze`` on a folder of every family: sharded and whole, float32 and bfloat16."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moeprobe.findings.result import Result
from tests.commandline import Moeprobe
from tests.families import FAMILIES, build

FEW = ("--recipe", "quick", "--max-tokens", "1500")


@pytest.fixture(scope="session")
def tokenizer_files(checkpoints: Path) -> list[Path]:
    return sorted((checkpoints / "mixtral").glob("tokenizer*"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", ["whole-float32", "sharded-bfloat16"])
def test_every_family(moeprobe: Moeprobe, family: str, shape: str, tmp_path: Path, tokenizer_files: list[Path]) -> None:
    folder = tmp_path / family
    dtype = torch.bfloat16 if "bfloat16" in shape else torch.float32
    build(family, dtype).save_pretrained(folder, max_shard_size="100KB" if "sharded" in shape else "1GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("sharded" in shape)
    for file in tokenizer_files:
        shutil.copy(file, folder)
    outcome = moeprobe("analyze", folder, *FEW)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    result = Result.load(Path("reports") / family / "result.json")
    assert result.evidence.dtype == str(dtype).removeprefix("torch.")
    assert all(r.router.verified for r in result.evidence.routers)
    assert not [c for c in result.checks if c.verdict == "failed"]
    assert not result.not_checked or result.not_checked[0].what.startswith("loss test")
    report = (Path("reports") / family / "report.md").read_text()
    figures = re.findall(r"\]\((figures/[^)]+)\)", report)
    assert figures
    assert all((Path("reports") / family / figure).is_file() for figure in figures)


def test_records_are_saved_on_demand(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("analyze", checkpoints / "deepseek_v3", *FEW, "-o", "out", "--save-records")
    assert outcome.code == 0, outcome.err
    files = sorted(Path("out/records").glob("batch-*.safetensors"))
    tensors = [load_file(file) for file in files]
    result = Result.load("out/result.json")
    for router in result.evidence.routers:
        experts = torch.cat([t[f"{router.router.path}/experts"] for t in tensors])
        assert router.activations is not None
        assert torch.bincount(experts.flatten(), minlength=16).tolist() == router.activations.load.counts


def test_a_result_survives_its_file(moeprobe: Moeprobe, checkpoints: Path) -> None:
    moeprobe("analyze", checkpoints / "qwen2_moe", *FEW, "-o", "out")
    result = Result.load("out/result.json")
    result.save("again.json")
    assert Path("again.json").read_bytes() == Path("out/result.json").read_bytes()


def test_own_texts_and_limits(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(f'{{"text": "Document {i} says {i * i} and more.", "source": "s{i % 6}"}}\n' for i in range(40))
    )
    outcome = moeprobe(
        "analyze", checkpoints / "mixtral", "--recipe", "quick", "--probe", texts, "-o", "out",
        "--select", "flat-scores", "--limit", "flat-scores.min_tokens=10", "--limit", "flat-scores.min_distinct_ids=5",
        "--limit", "flat-scores.std_warning=1000",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = Result.load("out/result.json")
    assert {c.detector for c in result.checks} == {"flat-scores"}
    assert result.evidence.probe is not None
    assert len(result.evidence.probe.sources) == 6
    assert [f.limit for f in result.findings] == [1000] * 4


def test_routers_need_no_tokenizer(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "mixtral", tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    outcome = moeprobe("routers", folder)
    assert outcome.code == 0, outcome.err
    assert "top 2 of 8" in outcome.out or "top" in outcome.out


def test_routers(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("routers", checkpoints / "deepseek_v3")
    assert outcome.code == 0, outcome.err
    assert "sigmoid" in outcome.out  # measured: its config does not name a score function
    outcome = moeprobe("routers", checkpoints / "deepseek_v3", "--weights-only", "--json")
    assert outcome.out.count('"kind":"top-k"') == 3
