"""Models that read text beside images, video or sound, under text alone; and the text models inside them.

The towers are as small as they go and stay idle; every special id is 300 or more, so that text never meets one.
"""

from functools import partial
from typing import Any

import transformers as hf
from torch import nn

from tests.zoo.case import VOCABULARY, Case
from tests.zoo.truth import experts_call

IMAGE_TEXT = "AutoModelForImageTextToText"

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
GROUPED = {**ROUTED, "n_group": 2, "topk_group": 1}
MLA = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}  # fmt: skip
INDEXER = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "patch_size": 4}
DEPTH = {**TOWER, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
LAYERS = {**TOWER, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {"image_token_id": 300}
VIDEO = {**IMAGE, "video_token_id": 301}
VISION = {**VIDEO, "vision_start_token_id": 302, "vision_end_token_id": 303}


def make(model: str, config: str, fields: dict[str, Any]) -> nn.Module:
    """The model of class ``model``; by name, because transformers loads its classes late."""
    made: nn.Module = getattr(hf, model)(getattr(hf, config)(**fields))
    return made


def image_text(name: str, classes: str, sites: int, **fields: Any) -> Case:
    """A composite model; the names of its model and config class begin with ``classes``."""
    return composite(name, f"{classes}ForConditionalGeneration", f"{classes}Config", sites, **fields)


def composite(
    name: str, model: str, config: str, sites: int, *, auto: str = IMAGE_TEXT, backends: bool = True, **fields: Any
) -> Case:
    """A composite model by the names of its classes."""
    return Case(name, partial(make, model, config, fields), experts_call, sites, auto=auto, backends=backends)


def causal(name: str, model: str, config: str, sites: int, fields: dict[str, Any]) -> Case:
    """The text model of a composite one."""
    return Case(name, partial(make, model, config, fields), experts_call, sites)


_ARIA = {**TEXT, "intermediate_size": 16, "moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 1}
_OCR = {**TEXT, **ROUTED, **SPARSE}
_SAM = {
    "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 16, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 16, "downsample_channels": [16, 16],
}  # fmt: skip
GEMMA = {
    **TEXT, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16, "head_dim": 8, "global_head_dim": 8,
    "sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
GEMMA_TOWER = {**LAYERS, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16}
_GEMMA4 = {
    **GEMMA, "enable_moe_block": True, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
}  # fmt: skip
_MINIMAX = {
    **TEXT, **SPARSE, "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16, "head_dim": 8,
    "rotary_dim": 8, "dense_intermediate_size": 32, "shared_intermediate_size": 16, "index_n_heads": 2,
    "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2,
    "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
}  # fmt: skip
_LINEAR = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
_QWEN35 = {
    **TEXT, **EXPERTS, **_LINEAR, "head_dim": 32, "shared_expert_intermediate_size": 16,
    "rope_parameters": {**MROPE, "partial_rotary_factor": 0.25},
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
_QWEN4 = {
    **_QWEN35, "layer_types": ["linear_attention", "linear_attention", "indexed_attention"], "hc_count": 2,
    "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 4, "ple_layer_ids": [1], "ple_embed_dim": 16, "heads_per_ngram": 2,
    "ngram_vocab_size_base": 64, "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 1,
}  # fmt: skip
_POSITIONS = {**DEPTH, "num_position_embeddings": 16}

CASES: tuple[Case, ...] = (
    image_text(
        "aria", "Aria", 3, text_config=_ARIA, image_token_index=300, projector_patch_to_query_dict={4: 4},
        vision_config={**LAYERS, "model_type": "idefics3_vision", "image_size": 8},
    ),
    causal("aria:text", "AriaTextForCausalLM", "AriaTextConfig", 3, _ARIA),
    image_text(
        "deepseek_ocr2", "DeepseekOcr2", 2, **IMAGE, text_config=_OCR,
        vision_config={"sam_config": _SAM, "encoder_config": {**TEXT, "hidden_size": 16, "num_hidden_layers": 1}},
    ),
    image_text(
        "unlimited_ocr", "UnlimitedOcr", 2, **IMAGE, text_config={**_OCR, "sliding_window": 8},
        vision_config={"sam_config": _SAM, "encoder_config": {**LAYERS, "image_size": 16}},
    ),
    image_text(
        "gemma4", "Gemma4", 3, **VIDEO, boi_token_id=302, eoi_token_id=303, audio_token_id=304, boa_token_id=305,
        eoa_token_index=306, text_config=_GEMMA4, vision_config=GEMMA_TOWER,
    ),
    causal("gemma4:text", "Gemma4ForCausalLM", "Gemma4TextConfig", 3, _GEMMA4),
    composite(
        "minimax_m3_vl", "MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3VLConfig", 2, image_token_index=300,
        video_token_index=301, text_config=_MINIMAX, vision_config={**LAYERS, "image_size": 16},
        projector_hidden_size=16,
    ),
    causal("minimax_m3_vl:text", "MiniMaxM3VLForCausalLM", "MiniMaxM3VLTextConfig", 2, _MINIMAX),
    image_text(
        "glm4v_moe", "Glm4vMoe", 2, **VIDEO, image_start_token_id=302, image_end_token_id=303,
        video_start_token_id=304, video_end_token_id=305, vision_config={**DEPTH, "image_size": 16},
        text_config={
            **TEXT, **GROUPED, "head_dim": 16, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
            "rope_parameters": {**MROPE, "partial_rotary_factor": 0.5},
        },
    ),
    image_text(
        "glm5_next", "Glm5Next", 2, **VIDEO, image_start_token_id=302, image_end_token_id=303,
        video_start_token_id=304, video_end_token_id=305,
        vision_config={**DEPTH, "image_size": 16, "projection_intermediate_size": 16},
        text_config={
            **TEXT, **MLA, **GROUPED, **SPARSE, **INDEXER, "qk_rope_head_dim": 0, "index_kpool": 2, "hc_mult": 2,
            "linear_head_dim": 8, "linear_num_heads": 4, "indexer_types": ["full", "full", "shared"],
            "layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
        },
    ),
    image_text(
        "mistral_large4", "MistralLarge4", 2, image_token_index=300,
        vision_config={**LAYERS, "model_type": "pixtral", "image_size": 16},
        text_config={**TEXT, **MLA, **GROUPED, **INDEXER, "head_dim": 8, "routed_scaling_factor": 1.5},
    ),
    image_text(
        "muse_spark", "MuseSpark", 2, **VIDEO, audio_token_id=302, out_hidden_size=16, projector_hidden_size=16,
        vision_config={**LAYERS, "pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 16},
        audio_config={
            "patch_sizes": [2, 2], "hidden_sizes": [8, 16], "depths": [1, 1], "num_hidden_layers": 2,
            "conv_kernel_size": 3, "out_hidden_size": 32,
        },
        text_config={
            **TEXT, **SPARSE, "head_dim": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "moe_hidden_size": 16, "routed_scaling_factor": 1.5, "sliding_window": 8,
        },
    ),
    image_text("qwen3_5_moe", "Qwen3_5Moe", 3, **VISION, text_config=_QWEN35, vision_config=_POSITIONS),
    causal("qwen3_5_moe:text", "Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", 3, _QWEN35),
    image_text(
        "qwen3_vl_moe", "Qwen3VLMoe", 3, **VISION, vision_config={**_POSITIONS, "deepstack_visual_indexes": [0]},
        text_config={**TEXT, **EXPERTS, "head_dim": 8, "rope_parameters": MROPE},
    ),
    image_text("qwen4_exp", "Qwen4Exp", 3, **VISION, text_config=_QWEN4, vision_config=_POSITIONS),
    causal("qwen4_exp:text", "Qwen4ExpForCausalLM", "Qwen4ExpTextConfig", 3, _QWEN4),
    image_text(
        "step3p7", "Step3p7", 2, backends=False, **IMAGE, vision_config={**LAYERS, "mlp_ratio": 1.0, "image_size": 16},
        text_config={
            **TEXT, **ROUTED, **SPARSE, "head_dim": 8, "share_expert_dim": 16, "moe_router_scaling_factor": 1.5,
            "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    image_text(
        "kimi_k25", "Kimi_K25", 2, backends=False, **VISION, projection_hidden_size=16,
        vision_config={**LAYERS, "pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 1},
        text_config={**TEXT, **MLA, **GROUPED, "model_type": "deepseek_v3", "first_k_dense_replace": 1},
    ),
)  # fmt: skip
