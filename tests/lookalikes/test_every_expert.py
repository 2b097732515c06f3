"""Tiny models that choose all of their experts, or have one: nothing is found, and what is printed is true."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from moeprobe.findings.result import Result
from moeprobe.pipeline import analyze

_SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 1024,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_V4: dict[str, Any] = {
    "num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8, "q_lora_rank": 16,
    "o_groups": 2, "o_lora_rank": 16, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4, "hc_mult": 2,
    "sliding_window": 16, "mlp_layer_types": ["hash_moe", "moe", "moe"], "layer_types": ["sliding_attention"] * 3,
    "moe_intermediate_size": 16,
}  # fmt: skip
_CHOICE = ("MP101", "MP201", "MP501", "MP601", "MP602", "MP701", "MP702", "MP703", "MP704", "MP705")


def made(family: str, experts: int, chosen: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = _SIZES | {"intermediate_size": 32, "num_experts_per_tok": chosen}
    model: nn.Module
    if family == "mixtral":
        model = hf.MixtralForCausalLM(hf.MixtralConfig(**sizes, num_local_experts=experts))
    elif family == "olmoe":
        model = hf.OlmoeForCausalLM(hf.OlmoeConfig(**sizes, num_experts=experts))
    elif family == "gpt_oss":
        model = hf.GptOssForCausalLM(hf.GptOssConfig(**sizes, head_dim=8, num_local_experts=experts))
    else:
        model = hf.DeepseekV4ForCausalLM(hf.DeepseekV4Config(**sizes | _V4, n_routed_experts=experts))
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("gate.weight", "router.weight", "router.bias")):
                tensor.normal_(std=0.3)
            elif "tid2eid" in name:
                tensor.copy_(torch.rand(tensor.shape[0], experts).argsort(dim=-1)[:, :chosen])
    return model.eval()


def judged(checkpoints: Path, model: nn.Module) -> Result:
    tokenizer = hf.AutoTokenizer.from_pretrained(checkpoints / "mixtral")
    return analyze(model, tokenizer=tokenizer, recipe="quick", max_tokens=1200, select=_CHOICE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["mixtral", "olmoe", "gpt_oss", "deepseek_v4"])
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_nothing_is_found_and_every_reason_is_true(checkpoints: Path, family: str, experts: int) -> None:
    result = judged(checkpoints, made(family, experts, experts))
    assert result.findings == []
    assert all(one.router.verified for one in result.evidence.routers)
    reasons = " ".join(check.reason for check in result.checks)
    assert "needs the loss test" not in reasons
    assert "were not read" not in reasons
    assert not any(check.verdict == "failed" for check in result.checks)
    permuted = {check.reason for check in result.checks if check.detector == "permuted-experts"}
    what = "there is a single expert" if experts == 1 else "every token uses every expert"
    assert permuted == {f"{what}, so there is no choice to judge"}
