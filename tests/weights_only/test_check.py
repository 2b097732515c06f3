"""``check --weights-only`` and ``routers`` on the command line: planted faults, exit codes, bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moeprobe.pipeline import analyze
from tests.commandline import Moeprobe
from tests.weights_only.stored import KIMI, change, kimi, saved, write

Shards = list[dict[str, Tensor]]
GATE, BIAS = "model.layers.2.mlp.gate.weight", "model.layers.2.mlp.gate.e_score_correction_bias"


def _zero_gate(shards: Shards) -> None:
    shards[3][GATE].zero_()


def _nan_row(shards: Shards) -> None:
    shards[3][GATE][5, 7] = float("nan")


def _equal_rows(shards: Shards) -> None:
    shards[3][GATE][5] = shards[3][GATE][2]


def _never(shards: Shards) -> None:
    shards[3][BIAS][6] -= 10


def _always(shards: Shards) -> None:
    shards[3][BIAS][6] += 10


def _lost(shards: Shards) -> None:
    for layer in (1, 2, 3):
        shards[layer + 1][f"model.layers.{layer}.mlp.gate.e_score_correction_bias"].zero_()


def _bfloat16_bias(shards: Shards) -> None:
    shards[3][BIAS] = (shards[3][BIAS] + 10).bfloat16()


def _nan_bias(shards: Shards) -> None:
    shards[3][BIAS][1] = float("nan")


@pytest.mark.parametrize(
    ("plant", "detector", "cause", "experts"),
    [
        (_zero_gate, "flat-scores", "gate weights are (nearly) zero", []),
        (_nan_row, "sqrt-nan", "gate weights are not finite", [5]),
        (_equal_rows, "flat-scores", "gate rows are equal", [2, 5]),
        (_never, "bias-runaway", "the selection bias outweighs any score (never chosen)", [6]),
        (_always, "bias-runaway", "the selection bias outweighs any score (always chosen)", [6]),
        (_lost, "bias-runaway", "the selection bias was lost", []),
        (_bfloat16_bias, "bias-runaway", "the selection bias was rounded to 16 bits in the file", []),
        (_nan_bias, "bias-runaway", "the selection bias is not finite", [1]),
    ],
)
def test_planted_faults_are_found(
    moeprobe: Moeprobe, tmp_path: Path, plant: Callable[[Shards], None], detector: str, cause: str, experts: list[int]
) -> None:
    shards = kimi(hidden=256)
    plant(shards)
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, shards)
    done = moeprobe("check", str(folder), "--weights-only", "--output-format", "json")
    assert done.code == 1, done.err
    found = [one for one in json.loads(done.out)["findings"] if one["severity"] == "error"]
    assert {(one["detector"], one["cause"], tuple(one["experts"])) for one in found} == {(detector, cause, (*experts,))}


def test_a_sound_one_passes_and_says_what_needs_a_run(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    done = moeprobe("check", str(folder), "--weights-only")
    assert done.code == 0, done.err
    assert "clean as far as the weights tell" in done.out
    assert "weights only: nothing that needs a forward pass was checked" in done.out
    report = moeprobe("analyze", str(folder), "--weights-only", "-o", str(tmp_path / "out"))
    assert report.code == 0, report.err
    written = (tmp_path / "out" / "report.md").read_text()
    assert "needs a forward pass" in written
    assert "only the weights of the routers were read" in written


def test_nothing_that_weights_can_tell_is_not_known(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    done = moeprobe("check", str(folder), "--weights-only", "--select", "dead-experts")
    assert done.code == 2
    assert "nothing was checked" in done.out


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda table: table.zero_(), "the hash table is all zero"),
        (lambda table: table[3].fill_(99), "the hash table names experts that do not exist"),
        (lambda table: table[3].fill_(int(table[3, 0])), "the hash table names an expert twice for one token"),
    ],
)
def test_broken_hash_tables(tmp_path: Path, fault: Callable[[Tensor], object], cause: str) -> None:
    folder = saved("deepseek_v4", tmp_path)
    sound = analyze(folder, weights_only=True)
    assert sound.findings == []
    assert [one.router.kind for one in sound.evidence.routers] == ["hash", "top-k", "top-k"]
    assert sound.evidence.routers[1].weights
    assert sound.evidence.routers[1].weights.logit_bound

    def plant(tensors: dict[str, Tensor], _: object) -> None:
        fault(next(tensor for name, tensor in tensors.items() if name.endswith("tid2eid")))

    broken = analyze(change(folder, plant), weights_only=True)
    assert [(one.detector, one.cause, one.router) for one in broken.problems] == [
        ("hash-boundary", cause, "model.layers.0.mlp.gate")
    ]


def test_without_a_declared_score_function_a_certificate_is_a_warning(tmp_path: Path) -> None:
    shards = kimi(hidden=256)
    _never(shards)
    config = {key: value for key, value in KIMI.items() if key != "scoring_func"} | {"hidden_size": 256}
    result = analyze(write(tmp_path / "m", config, shards), weights_only=True)
    assert [(one.severity, one.experts) for one in result.problems] == [("warning", [6])]
    assert "neither measured nor declared" in result.problems[0].message


def test_a_certificate_holds_however_groups_are_ranked(tmp_path: Path) -> None:
    config = KIMI | {"hidden_size": 256, "n_group": 4, "topk_group": 1}
    shards = kimi(hidden=256)
    shards[3][BIAS] = torch.tensor([5.0, 5, 9, 5, 5, 5, 5, 5])
    grouped = analyze(write(tmp_path / "m", config, shards), weights_only=True)
    # Expert 2 wins with and without groups; expert 3 shares its group and is second only where groups count.
    assert [(one.experts, one.severity) for one in grouped.problems] == [([2], "error")]
    # Where masked groups count as 0 they beat a negative score, but never expert 2.
    shards[3][BIAS] -= 6
    masked = analyze(write(tmp_path / "n", config, shards), weights_only=True)
    assert [(one.experts, one.severity) for one in masked.problems] == [([2], "error")]
    shards[3][BIAS] = torch.tensor([-5.0, -5, -2, -5, -5, -5, -5, -5])
    negative = analyze(write(tmp_path / "o", config, shards), weights_only=True)
    assert negative.problems == []


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_runaway_bias_of_the_shape_of_deepseek_v3(tmp_path: Path, offset: float) -> None:
    config = KIMI | {
        "model_type": "deepseek_v3", "hidden_size": 32, "n_routed_experts": 256, "n_group": 8, "topk_group": 4,
        "num_experts_per_tok": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 1,
    }  # fmt: skip
    shards = kimi(hidden=32, experts=256, width=1)

    def problems(name: str, **changed: Tensor) -> list[tuple[str, str, int | None, int]]:
        torch.manual_seed(1)
        for layer in (1, 2, 3):
            at = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
            shards[layer + 1][at] = offset + 0.1 * torch.randn(256)
        shards[3][BIAS] = changed.get("bias", shards[3][BIAS])
        for expert, value in changed.items():
            if expert != "bias":
                shards[3][BIAS][int(expert[1:])] = value
        found = analyze(write(tmp_path / name, config, shards), weights_only=True).problems
        return [(one.severity, one.cause, one.layer, len(one.experts)) for one in found]

    never, always = (f"the selection bias outweighs any score ({fate} chosen)" for fate in ("never", "always"))
    assert problems("healthy") == []
    assert problems("high", e77=torch.tensor(12.0)) == [("error", always, 2, 1)]
    assert problems("low", e77=torch.tensor(-12.0)) == [("error", never, 2, 1)]
    halves = torch.tensor([12.0, -12.0])
    assert problems("blocks", bias=halves.repeat_interleave(128)) == [("error", never, 2, 128)]
    assert problems("turns", bias=halves.repeat(128)) == [("error", never, 2, 128)]


@pytest.mark.parametrize(("top_k", "normalised", "said"), [(1, True, 3), (1, False, 0), (2, True, 0)])
def test_top_1_with_a_norm_gets_no_gradient(tmp_path: Path, top_k: int, normalised: bool, said: int) -> None:
    config = KIMI | {"hidden_size": 256, "num_experts_per_tok": top_k, "norm_topk_prob": normalised}
    result = analyze(write(tmp_path / "m", config, kimi(hidden=256)), weights_only=True)
    found = [(one.detector, one.cause) for one in result.findings if one.detector != "bias-runaway"]
    assert found == [("broken-contract", "top-1 weights are constant")] * said
    assert [one.severity for one in result.problems] == ["warning"] * min(said, 1)


def test_neither_torch_models_nor_code_of_the_checkpoint_are_imported(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    (folder / "configuration_deepseek.py").write_text("raise SystemExit('executed')")
    code = (
        "import sys; from moeprobe.weights_scan import scan; scan(sys.argv[1]);"
        "print([m for m in sys.modules if '.modeling_' in m and m.startswith('transformers.models.')"
        " and '.auto.' not in m])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_that_need_a_run_are_refused(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    for option in (["--probe", "x"], ["--max-tokens", "9"], ["--dtype", "float32"], ["--tokenizer", "x"]):
        done = moeprobe("check", str(folder), "--weights-only", *option)
        assert (done.code, f"so {option[0]} has no meaning" in done.sentence) == (2, True)


def test_damaged_files(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    shard = folder / "model-00004-of-00006.safetensors"
    whole = shard.read_bytes()
    index = folder / "model.safetensors.index.json"

    def refused() -> str:
        done = moeprobe("check", str(folder), "--weights-only")
        assert (done.code, done.out) == (2, "")
        return done.sentence

    shard.write_bytes(whole[:-8])
    assert "is truncated" in refused()
    shard.write_bytes((10**7).to_bytes(8, "little") + whole[8:])
    assert "is truncated" in refused()
    shard.unlink()
    assert "1 of 6 weight files are missing" in refused()
    shard.write_bytes(whole)
    content = index.read_text()
    promised = json.loads(content)
    promised["weight_map"]["model.layers.9.mlp.gate.weight"] = shard.name
    index.write_text(json.dumps(promised))
    assert "promises 1 tensors that no shard holds" in refused()
    index.unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refused()
    index.write_text(content)
    assert moeprobe("check", str(folder), "--weights-only").code == 0


def test_what_the_names_do_not_tell(moeprobe: Moeprobe, tmp_path: Path) -> None:
    dense = write(
        tmp_path / "d", KIMI | {"num_hidden_layers": 1}, [{"model.layers.0.mlp.gate_proj.weight": torch.zeros(4, 4)}]
    )
    done = moeprobe("check", str(dense), "--weights-only")
    assert (done.code, "named like a router" in done.err) == (2, True)
    shards = kimi(hidden=256)
    for layer in (1, 2, 3):
        name = f"model.layers.{layer}.mlp.gate"
        shards[layer + 1][f"{name}.bias"] = shards[layer + 1].pop(f"{name}.e_score_correction_bias")
    unknown = analyze(write(tmp_path / "u", KIMI | {"hidden_size": 256}, shards), weights_only=True)
    assert all(one.router.selection_bias is None for one in unknown.evidence.routers)
    assert "what bias is for is not known" in unknown.evidence.routers[0].router.reason
    for layer in (1, 2, 3):
        name = f"model.layers.{layer}.mlp.gate.weight"
        shards[layer + 1][name] = shards[layer + 1][name].to(torch.float8_e4m3fn)
    scaled = analyze(write(tmp_path / "s", KIMI | {"hidden_size": 256}, shards), weights_only=True)
    assert scaled.evidence.routers == []
    assert "stored as float8_e4m3fn and has no scales" in scaled.not_checked[0].why
    assert scaled.not_checked[0].blocking


def test_routers_reads_the_files_when_told(moeprobe: Moeprobe, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256}, kimi(hidden=256))
    done = moeprobe("routers", str(folder), "--weights-only", "--json")
    assert done.code == 0, done.err
    facts = [json.loads(line) for line in done.out.splitlines()]
    assert [(one["layer"], one["experts"], one["top_k"]) for one in facts] == [(1, 8, 2), (2, 8, 2), (3, 8, 2)]
    assert facts[0]["declared"]["score_function"] == "sigmoid"
    assert facts[0]["score_function"] is None
    refused = moeprobe("routers", str(folder), "--weights-only", "--dtype", "float32")
    assert (refused.code, "loads nothing" in refused.err) == (2, True)


def test_a_baseline_of_weights(moeprobe: Moeprobe, tmp_path: Path) -> None:
    shards = kimi(hidden=256)
    before = write(tmp_path / "before", KIMI | {"hidden_size": 256}, shards)
    _zero_gate(shards)
    after = write(tmp_path / "after", KIMI | {"hidden_size": 256}, shards)
    base = tmp_path / "base"
    assert moeprobe("analyze", str(before), "--weights-only", "-o", str(base)).code == 0
    done = moeprobe("check", str(after), "--weights-only", "--baseline", str(base))
    assert done.code == 1
    assert moeprobe("analyze", str(after), "--weights-only", "-o", str(base)).code == 0
    assert moeprobe("check", str(after), "--weights-only", "--baseline", str(base)).code == 0


@pytest.mark.parametrize(
    ("said", "mark", "fits"),
    [({}, "eh_proj.weight", True), ({"num_nextn_predict_layers": 1}, "norm.weight", True), ({}, "norm.weight", False)],
)
def test_a_layer_more_is_one_that_predicts_further_tokens(
    moeprobe: Moeprobe, tmp_path: Path, said: dict[str, int], mark: str, fits: bool
) -> None:
    """DeepSeek-V3 has 61 layers, and its files a layer 61 behind them."""
    shards = kimi(layers=5, hidden=256)
    shards[-2][f"model.layers.4.{mark}"] = torch.ones(256)
    folder = write(tmp_path / "m", KIMI | {"hidden_size": 256} | said, shards)
    done = moeprobe("routers", str(folder), "--weights-only")
    assert done.code == (0 if fits else 2)
    if not fits:
        assert "num_hidden_layers is 4, and the files hold 5 layers" in done.sentence


def test_more_experts_for_a_token_than_rows(moeprobe: Moeprobe, tmp_path: Path) -> None:
    config = {key: value for key, value in KIMI.items() if key != "n_routed_experts"} | {"hidden_size": 256}
    folder = write(tmp_path / "m", config | {"num_experts_per_tok": 9}, kimi(hidden=256))
    done = moeprobe("check", str(folder), "--weights-only")
    assert done.code == 2
    assert "num_experts_per_tok is 9" in done.sentence
    assert "config.json" in done.sentence
