"""What the files say about the routers of every family is what the loaded model says: paths, tensors, facts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.errors import NotMoEError
from moeprobe.findings.evidence import Evidence, RouterEvidence
from moeprobe.records.recorder import record
from moeprobe.routers.find import find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.weights import gate_weights
from moeprobe.weights_scan import scan
from tests.zoo.case import Case, arguments, batch, build
from tests.zoo.zoo import ZOO

BY_TENSORS = ("flat-scores", "sqrt-nan", "scale-mismatch", "hash-boundary", "low-precision-routing")
UNNAMED = {"doge"}
"""Its router is a product of keys inside a block without a child named experts."""
NO_PRODUCT = {"zaya"}
"""Its gate is a network."""
NO_TOP_K = {"nllb_moe", "switch_transformers"}
"""Top-2 and top-1 by their class, which no config says."""
SCALED = {"muse_spark"}
"""Its logits are the product times a constant, which only a run shows."""
CASES = [case for case in ZOO if case.name != "qwen3_omni_moe:talker"]  # saved alone it has no model_type


def _recorded(case: Case, model: torch.nn.Module) -> dict[str, Gate]:
    ids, mask = batch()
    with record(model) as recording, torch.no_grad():
        model(**arguments(case, model, ids, mask))
    return {gate.router.path: gate for gate in recording.gates}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hub_layout", [True, False], ids=["hub", "transformers"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_files_say_what_the_model_says(case: Case, hub_layout: bool, tmp_path: Path) -> None:
    model: Any = build(case)
    model.save_pretrained(tmp_path, save_original_format=hub_layout)
    if case.name in UNNAMED:
        with pytest.raises(NotMoEError, match="moeprobe analyze"):
            scan(tmp_path)
        return
    found = scan(tmp_path)
    if case.name in NO_PRODUCT:
        assert not found.routers
        assert "so its logits are not one product" in found.not_checked[0].why
        return
    paths = [site.path for site in find_sites(model)]
    if case.name == "diffusion_gemma":  # the encoder's tensors are the decoder's and are saved once
        paths = [path for path in paths if ".decoder." in path]
    assert sorted(one.router.path for one in found.routers) == sorted(paths)
    gates = _recorded(case, model)
    judged = judge(
        Evidence(model_type="", dtype="float32", routers=found.routers), choose(BY_TENSORS), resolve_limits({})
    )
    assert [one.message for one in judged.findings if one.severity != "info"] == []
    for one in found.routers:
        if one.router.path in gates:
            _compare(case, one, gates[one.router.path])


def _compare(case: Case, one: RouterEvidence, gate: Gate) -> None:
    facts, live = one.router, gate.router
    assert (facts.layer, facts.kind, facts.experts) == (live.layer, live.kind, live.experts)
    assert (facts.score_columns, facts.hidden_size) == (live.score_columns, live.hidden_size)
    assert (facts.shared_experts, facts.shared_gate) == (live.shared_experts, live.shared_gate)
    assert facts.declared.score_function == live.declared.score_function
    assert facts.declared.scaling_factor == live.declared.scaling_factor
    if case.name in NO_TOP_K:
        assert facts.top_k == 0
    else:
        assert facts.top_k == live.top_k
    said = facts.selection_bias and facts.selection_bias.values
    assert said == (live.selection_bias and live.selection_bias.values)
    weights = gate_weights(gate, None)
    if weights is None or one.weights is None:  # logits that are no product of gate and input
        return
    then, now = weights.model_dump(), one.weights.model_dump()
    assert now.pop("hash_table") is None or then.pop("hash_table")["rows"] == 320
    then.pop("hash_table", None)
    bound, verified = now.pop("logit_bound"), then.pop("logit_bound")
    if bound is not None:
        assert bound == pytest.approx(verified)
    norm, checked = now.pop("norm"), then.pop("norm")
    if norm is not None and checked is not None:
        assert norm["name"] == checked["name"]
        # A gain that is stored without its offset of one is around zero.
        assert norm["rms"] == pytest.approx(checked["rms"]) or norm["positive"] < 0.99
    if case.name in SCALED:
        factors = {round(a / b, 4) for a, b in zip(now.pop("row_norms"), then.pop("row_norms"), strict=True)}
        assert len(factors) == 1
        assert now.pop("row_cosine") == pytest.approx(then.pop("row_cosine"), rel=1e-4)
        assert now.pop("shape") == pytest.approx(then.pop("shape"), rel=1e-4)
    assert now == then
