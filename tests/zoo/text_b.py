"""Decoder-only families, second half, by name from HYV3 to Solar Open, and the three composites among them."""

from dataclasses import replace
from typing import Any

import transformers as hf
from torch import nn

from tests.zoo.case import Case
from tests.zoo.causal import TINY, causal
from tests.zoo.truth import experts_call

_GQA: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
_MLA: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
_INDEXER: dict[str, Any] = {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 2}
_SLIDING: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}

_MOE: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 32, "moe_intermediate_size": 16}
_DENSE_FIRST: dict[str, Any] = _MOE | {"num_hidden_layers": 3, "mlp_layer_types": ["dense", "sparse", "sparse"]}
_WIDE: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 16}
_GROUPS: dict[str, Any] = {"n_group": 2, "topk_group": 1}
_SHARED: dict[str, Any] = {"n_routed_experts": 8, "n_shared_experts": 1, "norm_topk_prob": True}

_INKLING_COMMON: dict[str, Any] = {
    "num_hidden_layers": 2, "intermediate_size": 32, "moe_intermediate_size": 16, "n_routed_experts": 8,
    "num_key_value_heads": 2, "head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "swa_head_dim": 8, "sliding_window_size": 8, "d_rel": 4, "rel_extent": 8, "route_scale": 2.0,
    "layer_types": ["hybrid_sliding", "hybrid"],
}  # fmt: skip
_INKLING: dict[str, Any] = _INKLING_COMMON | {"n_shared_experts": 2, "logits_mup_width_multiplier": 2.0}
_INKLING2: dict[str, Any] = _INKLING_COMMON | {"unpadded_vocab_size": 300, "n_layers_per_attn_res_block": 1}


def _mistral4() -> nn.Module:
    settings = TINY | _MOE | _MLA | _GROUPS | _SHARED | {"routed_scaling_factor": 1.5}
    # The length for which its default rotary settings are made.
    settings["max_position_embeddings"] = 1_048_576
    return hf.Mistral4ForCausalLM(hf.Mistral4Config(**settings))


def _inkling() -> nn.Module:
    """Four vision layers for a plan of four scales: with fewer than its scales, the plan needs scipy."""
    return hf.InklingForConditionalGeneration(
        hf.InklingConfig(
            text_config=TINY | _INKLING, image_token_id=301, audio_token_id=302, image_bos_token_id=303,
            vision_config={"patch_size": 4, "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
            audio_config={"n_mel_bins": 8, "mel_vocab_size": 8}, audio_bos_token_id=304,
        )
    )  # fmt: skip


def _inkling2() -> nn.Module:
    vision = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 4, "posemb_grid_size": 4,
        "projection_hidden_dim": 32, "text_hidden_size": 32,
    }  # fmt: skip
    return hf.Inkling2ForConditionalGeneration(
        hf.Inkling2Config(text_config=TINY | _INKLING2, vision_config=vision, image_token_id=301)
    )


def _nemotron_h(name: str, sites: int, layers: list[str], **settings: Any) -> Case:
    return causal(
        name, sites, _GQA, _SHARED, layers_block_type=layers, intermediate_size=32, moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16, ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=2,
        chunk_size=8, **settings,
    )  # fmt: skip


_COMPOSITE: dict[str, Any] = {"truth": experts_call, "auto": "AutoModelForImageTextToText"}

CASES: tuple[Case, ...] = (
    causal("hy_v3", 2, _DENSE_FIRST, _GQA, num_experts=8, num_shared_experts=1, router_scaling_factor=2.826),
    causal("hy_v4", 2, _DENSE_FIRST, _MLA, _INDEXER, _SHARED, hc_mult=2, routed_scaling_factor=2.827),
    Case("inkling", _inkling, sites=2, **_COMPOSITE),
    replace(causal("inkling_text", 2, _INKLING), name="inkling:text"),
    Case("inkling2", _inkling2, sites=2, **_COMPOSITE),
    replace(causal("inkling2_text", 2, _INKLING2), name="inkling2:text"),
    causal(
        "jamba", 2, num_hidden_layers=4, intermediate_size=16, num_key_value_heads=2, num_experts=8,
        expert_layer_period=2, expert_layer_offset=1, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8,
    ),
    causal(
        "kimi_linear", 2, _DENSE_FIRST, _MLA, _GROUPS, _SHARED, q_lora_rank=None, num_local_experts=8,
        layer_types=["linear_attention", "linear_attention", "full_attention"], linear_head_dim=8, linear_num_heads=4,
        routed_scaling_factor=2.446,
    ),
    causal("kolibri1", 2, _MOE, _GQA, _SLIDING, num_experts=8, shared_expert_intermediate_size=16),
    causal(
        "laguna", 2, _DENSE_FIRST, _GQA, num_experts=8, shared_expert_intermediate_size=16,
        moe_routed_scaling_factor=1.5, moe_router_logit_softcapping=10.0,
    ),
    causal(
        "lfm2_moe", 2, _MOE, num_key_value_heads=2, num_hidden_layers=3, num_dense_layers=1, num_experts=8,
        layer_types=["conv", "conv", "full_attention"], routed_scaling_factor=1.3,
    ),
    causal("mellum", 2, _MOE, _GQA, _SLIDING, num_experts=8),
    causal("mimo_v2_flash", 2, _DENSE_FIRST, _GQA, _GROUPS, n_routed_experts=8, v_head_dim=8, sliding_window=8),
    causal("minimax", 2, _WIDE, _GQA, _LINEAR, num_local_experts=8, block_size=8),
    causal("minimax_m2", 2, _WIDE, _GQA, num_local_experts=8),
    Case("mistral4", _mistral4, sites=2, **_COMPOSITE),
    _nemotron_h(
        "nemotron_h", 2, ["linear_attention", "moe", "full_attention", "moe"], **_GROUPS, routed_scaling_factor=1.5
    ),
    _nemotron_h("nemotron_h:latent", 1, ["linear_attention", "full_attention", "moe"], moe_latent_size=16),
    causal("olmoe", 2, _WIDE, num_key_value_heads=2, num_experts=8),
    causal("phimoe", 2, _WIDE, num_key_value_heads=2, num_local_experts=8),
    causal("solar_open", 2, _MOE, _GQA, _GROUPS, _SHARED, routed_scaling_factor=1.5),
)  # fmt: skip
