"""``moeprobe diff`` on what differs before any token is read: rule, bias, experts, their order, their number."""

import json
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeprobe.detectors import drift_facts, routing_drift
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result
from tests.cli.test_diff import FEW, copied, drift_of
from tests.commandline import Moeprobe

GUESSES = {routing_drift.OWN, routing_drift.INHERITED, routing_drift.UNTOLD}
Tensors = dict[str, torch.Tensor]


def compare(moeprobe: Moeprobe, base: Path | str, tuned: Path | str, *options: str) -> list[Finding]:
    outcome = moeprobe("diff", base, tuned, *FEW, *options, "-o", "out")
    assert outcome.code in (0, 1), outcome.err
    found = Result.load("out/result.json").findings
    assert not {one.cause for one in found} & GUESSES
    assert not any("something before this gate" in one.remedy for one in found)
    return found


def reconfigured(source: Path, target: Path, **values: object) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | values))
    return target


def layers_of(source: Path) -> list[int]:
    names = load_file(source / "model.safetensors")
    return sorted({int(match[1]) for name in names if (match := re.search(r"layers\.(\d+)\..*gate\.weight$", name))})


def renumber(tensors: Tensors, layer: int, order: Sequence[int], experts: bool = True, rows: bool = True) -> None:
    """Expert i becomes the one that was ``order[i]``; those that ``order`` does not name are gone."""
    place = re.compile(rf"layers\.{layer}\.(?:\w+)\.(?:experts\.(\d+)\..*|gate\.\w+)$")
    before = {name: tensor for name, tensor in tensors.items() if place.search(name)}
    for name, tensor in before.items():
        number = place.search(name)[1]
        if number is None and rows:
            tensors[name] = tensor[torch.tensor(order)].contiguous()
        elif number is not None and experts:
            del tensors[name]
    for name, tensor in before.items():
        number = place.search(name)[1]
        if number is not None and experts and int(number) in order:
            tensors[name.replace(f"experts.{number}.", f"experts.{order.index(int(number))}.")] = tensor


@pytest.mark.parametrize(
    ("family", "values", "name", "remedy"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "renormalisation", "norm_topk_prob (on in the base, off here)"),
        ("qwen2_moe", {"norm_topk_prob": True}, "renormalisation", "norm_topk_prob (off in the base, on here)"),
        ("deepseek_v3", {"routed_scaling_factor": 1.0}, "scaling factor", "routed_scaling_factor (2.5 in the base"),
        ("deepseek_v3", {"topk_group": 1}, "groups", "n_group and topk_group"),
        ("deepseek_v3", {"n_group": 1, "topk_group": 1}, "groups", "none here"),
        ("mixtral", {"num_experts_per_tok": 1}, "top-k", "num_experts_per_tok (2 in the base, 1 here)"),
        ("qwen3_moe", {"num_experts_per_tok": 6}, "top-k", "num_experts_per_tok (4 in the base, 6 here)"),
        ("deepseek_v4", {"scoring_func": "sigmoid"}, "score function", "scoring_func (sqrtsoftplus in the base"),
    ],
)
def test_a_rule_that_differs_is_the_finding(
    moeprobe: Moeprobe, checkpoints: Path, bundled: Path, tmp_path: Path, family: str, values: dict[str, object],
    name: str, remedy: str,
) -> None:  # fmt: skip
    source = bundled if family == "deepseek_v4" else checkpoints / family
    found = compare(moeprobe, source, reconfigured(source, tmp_path / "tuned", **values))
    problems = [one for one in found if one.severity != "info"]
    assert len(problems) == 1
    assert problems[0].cause.startswith(f"{drift_facts.RULE}: {name}")
    assert problems[0].follows is None
    assert remedy in problems[0].remedy
    assert "norm_topk_prob" in problems[0].remedy or name != "renormalisation"


@pytest.mark.parametrize("seed", range(2))
def test_a_bias_that_moved_alone_is_named(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path, seed: int) -> None:
    source = checkpoints / "deepseek_v3"
    layer = random.Random(seed).choice(layers_of(source))

    def change(tensors: Tensors) -> None:
        name = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
        tensors[name] += torch.randn(16, generator=torch.Generator().manual_seed(seed))

    found = compare(moeprobe, source, copied(source, tmp_path / "tuned", change))
    (problem,) = [one for one in found if one.severity != "info"]
    assert (problem.layer, problem.cause) == (layer, drift_facts.BIAS)
    assert "Restore the base's bias, and freeze it" in problem.remedy
    assert all(one.cause == drift_facts.BEHIND and one.follows for one in found if one is not problem)


def test_a_bias_that_hardly_moved_is_noted(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "deepseek_v3"

    def change(tensors: Tensors) -> None:
        tensors["model.layers.2.mlp.gate.e_score_correction_bias"][5] += 1e-3

    (found,) = compare(moeprobe, source, copied(source, tmp_path / "tuned", change))
    assert (found.severity, found.layer, found.cause) == ("info", 2, drift_facts.BIAS)


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_experts_that_changed_alone_are_counted(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path, size: float
) -> None:
    source = checkpoints / "qwen3_moe"
    draw = random.Random(size)
    layer, chosen = draw.choice(layers_of(source)[:-1]), draw.sample(range(16), 5)

    def change(tensors: Tensors) -> None:
        for expert in chosen:
            name = f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"
            tensors[name] = tensors[name] * (1 + size)

    found = compare(moeprobe, source, copied(source, tmp_path / "tuned", change))
    (told,) = [one for one in found if one.cause == drift_facts.EXPERTS]
    assert (told.severity, told.layer, told.measured) == ("info", layer, 5)
    assert "only experts changed: 5 of 16" in told.message
    assert "so is all that is neither gate nor expert" in told.message
    behind = [one for one in found if one is not told]
    assert all(one.cause == drift_facts.BEHIND and one.layer > layer for one in behind)
    assert bool(behind) == (size > 1)


def test_other_parts_that_changed_as_well_are_not_only_experts(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path
) -> None:
    source = checkpoints / "qwen3_moe"

    def change(tensors: Tensors) -> None:
        for name in ("model.layers.1.mlp.experts.3.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
            tensors[name] = tensors[name] * 1.01

    assert compare(moeprobe, source, copied(source, tmp_path / "tuned", change)) == []
    base = Result.load("out/result.json").evidence.base
    assert base is not None
    assert base.others_same is False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_a_consistent_renumbering_is_an_info(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path, family: str, dtype: str
) -> None:
    source = checkpoints / family
    draw = random.Random(f"{family}{dtype}")
    experts = 8 if family == "mixtral" else 16
    layer, order = draw.choice(layers_of(source)), draw.sample(range(experts), experts)
    tuned = copied(source, tmp_path / "tuned", lambda tensors: renumber(tensors, layer, order))
    (found,) = compare(moeprobe, source, tuned, "--dtype", dtype, "--base-dtype", "float32")
    assert (found.severity, found.layer, found.cause) == ("info", layer, drift_facts.TOGETHER)
    drift = drift_of()[layer]
    assert drift.renumbering is not None
    assert drift.renumbering.now == [order.index(expert) for expert in range(experts)]
    assert drift.overlap.value > 0.98
    assert drift.experts_changed == (0 if dtype == "float32" else None)


def test_a_hash_layer_that_was_renumbered_is_an_info(moeprobe: Moeprobe, bundled: Path, tmp_path: Path) -> None:
    order = random.Random(3).sample(range(16), 16)

    def change(tensors: Tensors) -> None:
        name = "model.layers.1.ffn.gate.tid2eid"
        table = tensors.pop(name)
        renumber(tensors, 1, order)
        tensors[name] = torch.tensor([order.index(expert) for expert in range(16)])[table.long()].to(table.dtype)

    (found,) = compare(moeprobe, bundled, copied(bundled, tmp_path / "tuned", change))
    assert (found.severity, found.layer, found.cause) == ("info", 1, drift_facts.TOGETHER)
    assert drift_of()[1].table_changed == 0


def test_rows_that_moved_without_their_experts_stay_a_warning(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path
) -> None:
    source = checkpoints / "qwen3_moe"
    order = [*range(1, 16), 0]
    tuned = copied(source, tmp_path / "tuned", lambda tensors: renumber(tensors, 2, order, experts=False))
    found = compare(moeprobe, source, tuned)
    assert [one.cause for one in found if one.severity == "warning"] == [drift_facts.RENUMBERED]
    assert drift_of()[2].renumbering.together is False


def pruned(source: Path, target: Path, orders: dict[int, list[int]], shift: int = 0) -> Path:
    """A copy with the experts of ``orders`` left, as many in every layer; experts ``shift`` places from their rows."""

    def change(tensors: Tensors) -> None:
        for layer, order in orders.items():
            renumber(tensors, layer, order, experts=False)
            renumber(tensors, layer, order[shift:] + order[:shift], rows=False)

    copied(source, target, change)
    config = json.loads((target / "config.json").read_text())
    key = "num_experts" if "num_experts" in config else "num_local_experts"
    (target / "config.json").write_text(json.dumps(config | {key: len(next(iter(orders.values())))}))
    return target


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "qwen2_moe"])
def test_a_pruned_model_is_compared_with_the_base_without_what_is_gone(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path, family: str
) -> None:
    source = checkpoints / family
    experts, draw = 8 if family == "mixtral" else 16, random.Random(family)
    left = experts - 3
    orders = {layer: draw.sample(range(experts), left) for layer in layers_of(source)}
    found = compare(moeprobe, source, pruned(source, tmp_path / "tuned", orders))
    told = [one for one in found if one.cause == drift_facts.PRUNED]
    assert [one.severity for one in told] == ["info"] * len(orders)
    for layer, drift in drift_of().items():
        assert drift.pruning is not None
        assert drift.pruning.kept == orders[layer]
        assert [one.expert for one in drift.pruning.gone] == sorted(set(range(experts)) - set(orders[layer]))
        assert drift.pruning.together is True
        assert drift.experts_changed == 0
        for lost in drift.pruning.gone:
            assert all(to.expert in orders[layer] for to in lost.receivers)
            assert not lost.tokens or sum(to.share for to in lost.receivers) > 0.3
    first = drift_of()[min(orders)]
    # The first layer reads the same inputs: it does what the base would do without the experts that are gone.
    assert first.overlap.value > 0.999
    assert first.weight_l1 is not None
    assert first.weight_l1.value < 5e-3  # the stored weights are rounded to bfloat16
    assert {one.cause for one in found} <= {drift_facts.PRUNED, drift_facts.BEHIND}


def test_a_pruned_model_with_the_wrong_experts_is_a_warning(
    moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path
) -> None:
    source = checkpoints / "qwen3_moe"
    order = [expert for expert in range(16) if expert not in (2, 9)]
    tuned = pruned(source, tmp_path / "tuned", {layer: list(order) for layer in layers_of(source)}, shift=3)
    found = compare(moeprobe, source, tuned)
    assert drift_facts.UNTIED in {one.cause for one in found if one.severity == "warning"}


def test_saved_results_know_the_facts(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "qwen3_moe"
    orders = {layer: [15, *range(12)] for layer in layers_of(source)}
    tuned = {
        "flag": reconfigured(source, tmp_path / "flag", norm_topk_prob=False),
        "order": copied(source, tmp_path / "order", lambda tensors: renumber(tensors, 1, [*range(1, 16), 0])),
        "pruned": pruned(source, tmp_path / "pruned", orders),
    }
    for name, folder in (("base", source), *tuned.items()):
        moeprobe("analyze", folder, *FEW, "-o", f"saved-{name}", "--save-records", "--select", "flat-scores")
    causes = {name: {one.cause for one in compare(moeprobe, "saved-base", f"saved-{name}")} for name in tuned}
    assert causes["flag"] == {f"{drift_facts.RULE}: renormalisation"}
    assert causes["order"] == {drift_facts.TOGETHER}
    assert {drift_facts.PRUNED} <= causes["pruned"] <= {drift_facts.PRUNED, drift_facts.BEHIND}


def test_added_experts_are_refused(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "qwen3_moe"
    smaller = pruned(source, tmp_path / "tuned", {layer: list(range(12)) for layer in layers_of(source)})
    outcome = moeprobe("diff", smaller, source, *FEW, "-o", "out")
    assert outcome.code == 2
    assert "Give the larger one first" in outcome.sentence


def test_another_dtype_knows_no_facts(moeprobe: Moeprobe, checkpoints: Path) -> None:
    for family in ("deepseek_v3", "qwen2_moe", "mixtral"):
        source = checkpoints / family
        assert compare(moeprobe, source, source, "--base-dtype", "float32", "--dtype", "bfloat16") == []
        for drift in drift_of().values():
            assert (drift.facts, drift.gate_same, drift.bias_same) == ([], True, True)
            assert drift.experts_changed is None


def test_int8_of_other_parts_is_silent(moeprobe: Moeprobe, checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "qwen3_moe"

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if "self_attn" in name and tensor.ndim == 2:
                step = tensor.abs().amax(dim=1, keepdim=True) / 127
                tensors[name] = (tensor / step).round() * step

    target = copied(source, tmp_path / "tuned", change)
    save_file(load_file(target / "model.safetensors"), target / "model.safetensors", metadata={"format": "pt"})
    assert compare(moeprobe, source, target) == []
