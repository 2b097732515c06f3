"""Tiny seeded models of the families that work now, with routers that have a preference."""

from collections.abc import Callable

import torch
import transformers as hf
from torch import nn

_COMMON = {"vocab_size": 2048, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}
_MLA = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "intermediate_size": 32, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "num_hidden_layers": 3,
}  # fmt: skip


def _mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(
            **_COMMON, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=8
        )
    )


def _qwen2() -> nn.Module:
    return hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(
            **_COMMON, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, num_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        )
    )  # fmt: skip


def _qwen3() -> nn.Module:
    return hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(
            **_COMMON, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, head_dim=8, num_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True,
        )
    )  # fmt: skip


def _deepseek_v2() -> nn.Module:
    return hf.DeepseekV2ForCausalLM(
        hf.DeepseekV2Config(**_COMMON, **_MLA, topk_method="group_limited_greedy", routed_scaling_factor=1.5)
    )


def _deepseek_v3() -> nn.Module:
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**_COMMON, **_MLA))


def _deepseek_v4() -> nn.Module:
    return hf.DeepseekV4ForCausalLM(
        hf.DeepseekV4Config(
            **_COMMON, num_hidden_layers=3, num_key_value_heads=1, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16,
            o_groups=2, o_lora_rank=16, index_n_heads=2, index_head_dim=8, index_topk=4, n_routed_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=16, hc_mult=2, sliding_window=16,
            mlp_layer_types=["hash_moe", "moe", "moe"], layer_types=["sliding_attention"] * 3,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def _olmoe() -> nn.Module:
    return hf.OlmoeForCausalLM(
        hf.OlmoeConfig(
            **_COMMON, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, num_experts=8,
            num_experts_per_tok=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def _gpt_oss() -> nn.Module:
    return hf.GptOssForCausalLM(
        hf.GptOssConfig(
            **_COMMON, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=8,
            num_experts_per_tok=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2,
    "qwen3_moe": _qwen3,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "deepseek_v4": _deepseek_v4,
    "olmoe": _olmoe,
    "gpt_oss": _gpt_oss,
}


def build(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A seeded model in eval mode whose routers, biases and hash tables are not at their initial values."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("gate.weight", "router.weight", "router.bias")):
                tensor.normal_(std=0.3)
            elif "correction_bias" in name:
                tensor.normal_(std=0.1)
            elif "tid2eid" in name:
                rows = torch.rand(tensor.shape[0], 8).argsort(dim=-1)
                tensor.copy_(rows[:, : tensor.shape[1]])
    model.to(dtype)
    for name, buffer in model.named_buffers():
        if "correction_bias" in name:
            buffer.data = buffer.data.float()
    return model.eval()
