"""``moeprobe check``: exit codes, formats, baselines. Few analyses, on few tokens."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import moeprobe as library
from moeprobe.detectors.flat_scores import FlatScores
from moeprobe.findings.result import Result
from moeprobe.recipe import adapt, load_recipe
from tests.commandline import Moeprobe

FEW = ("--recipe", "quick", "--max-tokens", "1500")


@pytest.fixture(scope="session")
def broken(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mixtral with a gate of zeros in layer 2."""
    folder = shutil.copytree(checkpoints / "mixtral", tmp_path_factory.mktemp("check") / "broken")
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if "layers.2." in name and name.endswith("gate.weight"):
                tensors[name] = torch.zeros_like(tensors[name])
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def base(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the healthy model."""
    recipe = adapt(load_recipe("quick"), None, 1500, (), (), None)
    folder = tmp_path_factory.mktemp("base")
    library.analyze(checkpoints / "mixtral", recipe=recipe).save(folder / "result.json")
    return folder


def test_clean_to_several_files_at_once(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe(
        "check", checkpoints / "mixtral", *FEW, "--fail-on", "warning", "--select", "MP1,MP7",
        "--output", "json=out/result.json", "--output", "markdown=out/deep/report.md",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.rstrip().endswith("PASSED: no findings of severity warning or above.")
    result = Result.load("out/result.json")
    assert result.fail_on == "warning"
    origins = {setting.name: (setting.value, setting.origin) for setting in result.settings}
    assert origins["recipe"] == ("quick", "command line")
    assert origins["max-tokens"] == (1500, "command line")
    assert origins["select"] == (["MP1", "MP7"], "command line")
    assert origins["ignore"] == ([], "default")
    report = Path("out/deep/report.md").read_text()
    assert report.startswith("# Routing of `mixtral`")
    assert "figures/" not in report
    assert "| `fail-on`" in report


def test_a_new_fault_fails_and_a_known_one_does_not(moeprobe: Moeprobe, broken: Path, base: Path) -> None:
    outcome = moeprobe("check", broken, *FEW, "--baseline", base, "--output", "json=broken.json")
    assert (outcome.code, outcome.err) == (1, "")
    assert "new" in outcome.out
    assert "FAILED" in outcome.out
    found = Result.load("broken.json")
    assert found.baseline is not None
    (root,) = [f for f in found.findings if f.severity == "error"]
    assert (root.detector, root.layer) == ("flat-scores", 2)
    assert root.fingerprint in found.baseline.new

    outcome = moeprobe("check", broken, *FEW, "--baseline", "broken.json", "--output-format", "markdown")
    assert (outcome.code, outcome.err) == (0, "")
    assert "## Against the baseline" in outcome.out
    assert "| known | error" in outcome.out

    outcome = moeprobe("check", broken, *FEW, "--output-format", "json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["baseline"] is None


def test_fixed(moeprobe: Moeprobe, broken: Path, checkpoints: Path) -> None:
    assert moeprobe("analyze", broken, *FEW, "-o", "before").code == 0
    outcome = moeprobe("analyze", checkpoints / "mixtral", *FEW, "-o", "after", "--baseline", "before")
    assert (outcome.code, outcome.err) == (0, "")
    compared = Result.load("after/result.json").baseline
    assert compared is not None
    assert ("flat-scores", 2, "error") in [(f.detector, f.layer, f.severity) for f in compared.fixed]
    assert "| fixed | error" in Path("after/report.md").read_text()


def test_an_empty_check_is_not_clean(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("check", checkpoints / "mixtral", *FEW, "--select", "hash-boundary")
    assert outcome.code == 2
    assert "COULD NOT CHECK: nothing was checked" in outcome.out


def test_a_detector_that_crashes_is_not_clean(
    moeprobe: Moeprobe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(FlatScores, "judge", crash)
    outcome = moeprobe("check", checkpoints / "mixtral", *FEW)
    assert outcome.code == 2
    assert "COULD NOT CHECK: flat-scores failed wherever it ran" in outcome.out


def test_a_crash_is_not_a_finding(moeprobe: Moeprobe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("by design")

    monkeypatch.setattr("moeprobe.pipeline.analyze", crash)
    outcome = moeprobe("check", checkpoints / "mixtral", *FEW)
    assert outcome.code == 2
    assert "does not know (RuntimeError: by design)" in outcome.sentence


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("qwen3_moe", FEW, "The baseline is of a model of type mixtral, and this one is of type qwen3_moe"),
        ("mixtral", ("--recipe", "full", "--max-tokens", "1500"), "measured with choice.max_tokens = 0"),
        ("mixtral", ("--recipe", "quick"), "measured with probe.max_tokens = 1500, and this analysis with 6144"),
        ("mixtral", (*FEW, "--probe", "own.txt"), "The baseline read other texts"),
        ("mixtral", ("--recipe", "qwen-moe"), "The recipe qwen-moe is made for qwen2_moe"),
    ],
)
def test_a_baseline_measured_otherwise(
    moeprobe: Moeprobe, checkpoints: Path, base: Path, model: str, options: tuple[str, ...], words: str
) -> None:
    Path("own.txt").write_text("A text of one's own, long enough for a model to read.\n")
    outcome = moeprobe("check", checkpoints / model, *options, "--baseline", base)
    assert outcome.code == 2
    assert words in outcome.sentence


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("no model may be opened for this")

    monkeypatch.setattr("moeprobe.opened.open_checkpoint", never)


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output", "json=a.json", "--output", "markdown=./a.json"), "json and markdown would both be written to"),
        (("--output", "json=a.json", "--output", "json=a.json"), "json and json would both be written to a.json"),
        (("--output", "jsn=a.json"), "unknown format 'jsn' (did you mean 'json'?)"),
        (("--output", "a.json"), "must look like junit=report.xml"),
        (("--output", "json="), "must look like junit=report.xml"),
        (("--output", "json=folder"), "it is not a regular file"),
        (("--output", "json=/dev/null"), "it is not a regular file"),
        (("--output", "json=file.txt/a.json"), "Cannot write"),
        (("--output", "json=/proc/none/a.json"), "Cannot write"),
        (("--output-format", "json", "--output-format", "text"), "cannot share standard output"),
        (("--output-format", "yaml"), "'yaml' is not one of"),
        (("--fail-on", "info"), "'info' is not one of"),
        (("--baseline", "missing.json"), "Cannot read missing.json"),
        (("--baseline", "folder"), "Cannot read folder/result.json"),
        (("--baseline", "cut.json"), "it is not valid JSON"),
        (("--baseline", "deep.json"), "nested more than 100 levels"),
        (("--baseline", "other.json"), "it is some other JSON file"),
        (("--baseline", "list.json"), "it is some other JSON file"),
        (("--baseline", "new.json"), "it has schema version 7, and this moeprobe reads 1"),
        (("--baseline", "half.json"), "model is missing or of the wrong kind"),
    ],
)
def test_refused_before_any_work(
    moeprobe: Moeprobe, checkpoints: Path, options: tuple[str, ...], words: str, base: Path
) -> None:
    Path("folder").mkdir()
    Path("file.txt").touch()
    whole = (base / "result.json").read_text()
    data = json.loads(whole)
    Path("cut.json").write_text(whole[: len(whole) // 2])
    Path("deep.json").write_text("[" * 200_000)
    Path("other.json").write_text('{"results": 3}')
    Path("list.json").write_text("[1, 2]")
    Path("new.json").write_text(json.dumps(data | {"schema_version": 7}))
    Path("half.json").write_text(json.dumps({key: value for key, value in data.items() if key != "model"}))
    before = sorted(Path().iterdir())
    outcome = moeprobe("check", checkpoints / "mixtral", *FEW, *options)
    assert outcome.code == 2
    assert words in outcome.sentence
    assert sorted(Path().iterdir()) == before
