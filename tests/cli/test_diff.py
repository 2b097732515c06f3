"""``moeprobe diff``: silent on the same model and on another dtype, exact about what was changed; what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeprobe.findings.drift import Drift
from moeprobe.findings.result import Result
from tests.commandline import Moeprobe, Outcome

FEW = ("--recipe", "quick", "--max-tokens", "3000")
TABLE = "model.layers.1.ffn.gate.tid2eid"


def copied(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a checkpoint with changed tensors."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def rolled(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].roll(1, dims=0).contiguous()

    return change


def drift_of(folder: str = "out") -> dict[int | None, Drift]:
    result = Result.load(Path(folder) / "result.json")
    found = {one.router.layer: one.drift for one in result.evidence.routers}
    assert all(found.values())
    return {layer: drift for layer, drift in found.items() if drift is not None}


def findings(folder: str = "out") -> list[tuple[int | None, str, bool]]:
    result = Result.load(Path(folder) / "result.json")
    return [(one.layer, one.severity, one.follows is None) for one in result.findings]


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    for word in words:
        assert word.lower() in outcome.sentence.lower(), outcome.sentence
    assert not Path("out").exists()


def test_the_same_model_does_not_drift(moeprobe: Moeprobe, bundled: Path) -> None:
    outcome = moeprobe("diff", bundled, bundled, *FEW, "-o", "out", "--fail-on", "warning")
    assert (outcome.code, outcome.err) == (0, "")
    assert "at least 100 % of the experts are those of the base" in " ".join(outcome.out.split())
    for drift in drift_of().values():
        assert drift.overlap.value == drift.same_sets.value == 1
        assert drift.weight_l1 is not None
        assert drift.logits is not None
        assert drift.weight_l1.value == drift.logits.value == drift.load_tv.value == 0
        assert drift.firm_sets is None or drift.firm_sets.value == 1
        assert drift.own_sets is None or drift.own_sets.value == 1
        assert drift.load_tv_floor is not None
        assert drift.load_tv_floor > 0
        assert drift.table_changed in (0, None)
        assert (drift.shifts, drift.renumbering) == ([], None)
    result = Result.load("out/result.json")
    assert {check.detector for check in result.checks} == {"routing-drift"}
    assert {check.verdict for check in result.checks} == {"clean"}
    assert not result.findings
    report = Path("out/report.md").read_text()
    assert "## Against the base model" in report
    assert "](figures/drift.svg)" in report
    assert Path("out/figures/drift.svg").is_file()


@pytest.mark.parametrize("family", ["deepseek_v3", "mixtral", "qwen2_moe"])
def test_another_dtype_is_silent(moeprobe: Moeprobe, checkpoints: Path, family: str) -> None:
    folder = checkpoints / family
    dtypes = ("--base-dtype", "float32", "--dtype", "bfloat16")
    outcome = moeprobe("diff", folder, folder, *FEW, *dtypes, "-o", "out", "--fail-on", "warning")
    assert outcome.code == 0, outcome.out
    assert not findings()
    drift = drift_of()
    assert any(0 < 1 - one.same_sets.value < 0.1 for one in drift.values()), "the dtype must change something"
    assert all(one.firm_sets is not None and one.firm_sets.value > 0.98 for one in drift.values())
    # DeepSeek-V3's gate computes in float32 in any model, so all of its drift comes from the layers around it.
    assert any(one.rounding for one in drift.values()) == (family != "deepseek_v3")


def test_permuted_gate_rows_are_named_and_nothing_else(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "deepseek_v3"
    tuned = copied(source, tmp_path / "tuned", rolled("model.layers.2.mlp.gate.weight"))
    outcome = moeprobe("diff", source, tuned, *FEW, "-o", "out", "--fail-on", "warning")
    assert outcome.code == 1
    assert "0 is now 1, 1 is now 2" in " ".join(outcome.out.split())
    drift = drift_of()
    assert drift[1].overlap.value == 1
    assert drift[2].renumbering is not None
    assert drift[2].renumbering.now == [*range(1, 16), 0]
    # Layer 3 reads what layer 2 has spoilt, but its own gate is the base's.
    assert drift[3].same_sets.value < 0.9
    assert drift[3].own_sets is not None
    assert drift[3].own_sets.value == 1
    assert [found for found in findings() if found[2]] == [(2, "warning", True)]


def test_fail_on(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "mixtral"
    name = "model.layers.3.block_sparse_moe.gate.weight"
    tuned = copied(source, tmp_path / "tuned", rolled(name))
    for bar, code in (("error", 0), ("warning", 1)):
        assert moeprobe("diff", source, tuned, *FEW, "-o", "out", "--fail-on", bar).code == code
    # Too few tokens to judge anything is no clean bill.
    assert moeprobe("diff", source, tuned, "--max-tokens", "500", "-o", "out").code == 2


def test_one_changed_row_of_a_hash_table_is_an_error(moeprobe: Moeprobe, bundled: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        row = tensors[TABLE][1500]
        row[0] = next(expert for expert in range(16) if expert not in row)

    tuned = copied(bundled, tmp_path / "tuned", change)
    assert moeprobe("diff", bundled, tuned, *FEW, "-o", "out").code == 1
    assert drift_of()[1].table_changed == 1
    assert drift_of()[1].table_rows == 2048
    assert findings() == [(1, "error", True)]


def test_a_lost_factor_shows_in_the_weights(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source, tuned = checkpoints / "deepseek_v3", tmp_path / "tuned"
    shutil.copytree(source, tuned)
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps(config | {"routed_scaling_factor": 1.0}))
    moeprobe("diff", source, tuned, *FEW, "-o", "out")
    first = drift_of()[1]
    assert first.overlap.value == 1
    assert first.weight_l1 is not None
    assert first.weight_l1.value == pytest.approx(0.6, abs=1e-3)
    assert (1, "warning", True) in findings()


def retokenised(source: Path, target: Path) -> Path:
    """A copy whose tokenizer swaps the ids of two frequent tokens."""
    shutil.copytree(source, target)
    path = target / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    first, second = (next(token for token in vocabulary if token.endswith(letter)) for letter in ("e", "t"))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(data))
    return target


def test_other_tokenizers_are_refused_unless_told(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "mixtral"
    tuned = retokenised(source, tmp_path / "tuned")
    refused(moeprobe("diff", source, tuned, *FEW, "-o", "out"), "tokenizers differ", "--allow-different-tokenizers")
    outcome = moeprobe("diff", source, tuned, *FEW, "-o", "out", "--allow-different-tokenizers")
    assert outcome.code == 0, outcome.err
    assert all(drift.overlap.value == 1 for drift in drift_of().values()), "both read the base's tokens"
    assert "both models read the tokens of the base's tokenizer" in Path("out/report.md").read_text()


def test_other_models_are_refused(moeprobe: Moeprobe, checkpoints: Path, bundled: Path, tmp_path: Path) -> None:
    refused(moeprobe("diff", checkpoints / "mixtral", checkpoints / "qwen2_moe", *FEW, "-o", "out"), "experts", "8")
    refused(moeprobe("diff", bundled, checkpoints / "mixtral", *FEW, "-o", "out"), "6 routers", "4")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=2048, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    refused(moeprobe("diff", checkpoints / "mixtral", tmp_path / "dense", *FEW, "-o", "out"), "dense model")
    refused(moeprobe("diff", tmp_path / "dense", checkpoints / "mixtral", *FEW, "-o", "out"), "dense model")
    refused(moeprobe("diff", "./nowhere", checkpoints / "mixtral", *FEW, "-o", "out"), "nowhere")


def test_saved_results_stand_for_their_models(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "deepseek_v3"
    tuned = copied(source, tmp_path / "tuned", rolled("model.layers.2.mlp.gate.weight"))
    for name, folder in (("base", source), ("after", tuned)):
        outcome = moeprobe("analyze", folder, *FEW, "-o", name, "--save-records", "--select", "flat-scores")
        assert outcome.code == 0, outcome.err
    moeprobe("diff", source, tuned, *FEW, "-o", "live")
    live = drift_of("live")
    # The texts are those of the saved result: no recipe needs to be given.
    for first, second in (("base", tuned), ("base/result.json", "after"), (source, "after")):
        outcome = moeprobe("diff", first, second, "-o", "out", "--fail-on", "warning")
        assert outcome.code == 1, outcome.err
        for layer, drift in drift_of().items():
            # The inputs of the routers are not saved, so which gate did it is not known.
            same = live[layer].model_copy(update={"own_sets": drift.own_sets})
            assert drift == same, (first, second, layer)
            assert (drift.own_sets is None) == (second == "after")
    base = Result.load("out/result.json").evidence.base
    assert base is not None
    assert base.saved is None
    refused_after(moeprobe("diff", "base", checkpoints / "mixtral", "-o", "no"), "routers")


def refused_after(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert all(word in outcome.sentence for word in words), outcome.sentence


def test_saved_results_that_cannot_be_compared(moeprobe: Moeprobe, checkpoints: Path) -> None:
    source = checkpoints / "mixtral"
    common = ("--recipe", "quick", "--select", "flat-scores")
    moeprobe("analyze", source, *common, "--max-tokens", "1500", "-o", "base", "--save-records")
    moeprobe("analyze", source, *common, "--max-tokens", "1400", "-o", "other", "--save-records")
    refused(moeprobe("diff", "base", "other", "-o", "out"), "other tokens")
    refused(moeprobe("diff", "base", source, "--max-tokens", "1400", "-o", "out"), "other tokens")
    moeprobe("analyze", source, *common, "--max-tokens", "1400", "-o", "base")
    refused(moeprobe("diff", "base", source, "-o", "out"), "records of 1,500 tokens", "1,400")
    first = next(Path("other/records").glob("batch-*"))
    first.write_bytes(first.read_bytes()[:-100])
    refused(moeprobe("diff", "other", source, "-o", "out"), "cannot be read")
    shutil.rmtree("other/records")
    refused(moeprobe("diff", "other", source, "-o", "out"), "without records", "--save-records")
    Path("broken").mkdir()
    Path("broken/result.json").write_text("{}")
    refused(moeprobe("diff", "broken", source, "-o", "out"), "does not hold a moeprobe result")


def test_all_detectors_can_be_asked(moeprobe: Moeprobe, checkpoints: Path) -> None:
    source = checkpoints / "mixtral"
    assert moeprobe("diff", source, source, *FEW, "-o", "out", "--select", "MP").code == 0
    result = Result.load("out/result.json")
    assert {"flat-scores", "broken-contract", "routing-drift"} <= {check.detector for check in result.checks}


def test_the_policy_decides_what_holds_for_a_comparison(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "mixtral"
    tuned = copied(source, tmp_path / "tuned", rolled("model.layers.3.block_sparse_moe.gate.weight"))
    # Recipe, select and baseline are for a check of one model: here they would refuse, judge nothing, and be missing.
    Path("moeprobe.toml").write_text(
        'recipe = "deepseek-v4"\nselect = ["flat-scores"]\nbaseline = "none.json"\nfail-on = "warning"\n'
    )
    few = ("--max-tokens", "3000")
    outcome = moeprobe("diff", source, tuned, *few, "--output", "json=diff.json", "--output", "sarif=diff.sarif")
    assert (outcome.code, outcome.err.strip()) == (1, "Policy: moeprobe.toml")
    assert outcome.out.rstrip().endswith("FAILED: 1 finding of severity warning or above.")
    assert not Path("reports").exists()
    result = Result.load("diff.json")
    said = {setting.name: (setting.value, setting.origin) for setting in result.settings}
    assert said["recipe"] == ("compare", "default")
    assert said["select"] == (["routing-drift"], "default")
    assert said["fail-on"] == ("warning", "moeprobe.toml")
    assert said["max-tokens"] == (3000, "command line")
    assert said["baseline"][0] is None
    assert json.loads(Path("diff.sarif").read_text())["runs"][0]["results"]

    Path("moeprobe.toml").write_text("[limits.routing-drift]\nmin_tokens = 9999\n")
    assert "COULD NOT CHECK: nothing was checked" in moeprobe("diff", source, tuned, *few, "-o", "few").out
    Path("moeprobe.toml").write_text('ignore = ["routing-drift"]\n')
    outcome = moeprobe("diff", source, tuned, *few, "-o", "out")
    assert outcome.code == 2
    assert "Every selected detector is ignored" in outcome.err


def test_outputs(moeprobe: Moeprobe, checkpoints: Path) -> None:
    source = checkpoints / "mixtral"
    outcome = moeprobe("diff", source, source, *FEW, "-o", "out", "--output-format", "json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == json.loads(Path("out/result.json").read_text())
    assert "Report: out/report.md" in outcome.err
    refused_after(moeprobe("diff", source, source, "--output", "junit=a", "--output", "json=a"), "both be written to a")
    refused_after(moeprobe("diff", source, source, "--recipe", "llama4"), "made for llama4")
    assert not Path("reports").exists()


def test_what_a_saved_result_was_held_against_is_not_this_comparison(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path
) -> None:
    source = checkpoints / "mixtral"
    tuned = copied(source, tmp_path / "tuned", rolled("model.layers.3.block_sparse_moe.gate.weight"))
    few = ("--recipe", "quick", "--max-tokens", "1500", "--save-records", "--select", "flat-scores")
    moeprobe("analyze", source, *few, "-o", "base")
    moeprobe("analyze", tuned, *few, "-o", "after", "--baseline", "base")
    assert Result.load("after/result.json").baseline is not None
    outcome = moeprobe("diff", "base", "after", "-o", "out", "--fail-on", "warning")
    assert outcome.code == 1, outcome.out
    result = Result.load("out/result.json")
    assert result.baseline is None
    said = {setting.name: (setting.value, setting.origin) for setting in result.settings}
    assert said["max-tokens"] == (1500, "the saved result")
