"""Decoder-only families, first half: Mixtral, Qwen, and then by name up to Hunyuan."""

from typing import Any

from tests.zoo.case import Case
from tests.zoo.causal import causal

_GQA: dict[str, Any] = {"num_key_value_heads": 2}
_MLA: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
_INDEXER: dict[str, Any] = {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 8}
_SLIDING: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}

_MOE: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 32, "moe_intermediate_size": 16}
_DENSE_FIRST: dict[str, Any] = _MOE | {"num_hidden_layers": 3}
_DENSE_FIRST_SLIDING: dict[str, Any] = _DENSE_FIRST | {
    "sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
_QWEN: dict[str, Any] = _MOE | {"num_experts": 8}
_GRANITE: dict[str, Any] = _GQA | {"num_hidden_layers": 2, "intermediate_size": 16, "num_local_experts": 8}
_DEEPSEEK: dict[str, Any] = _DENSE_FIRST | {
    "n_routed_experts": 8, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
}  # fmt: skip
_GROUPS: dict[str, Any] = {"n_group": 2, "topk_group": 1}
_MLP_TYPES: dict[str, Any] = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
_FIRST_DENSE: dict[str, Any] = {"first_k_dense_replace": 1}

CASES: tuple[Case, ...] = (
    causal("mixtral", 2, _GQA, num_hidden_layers=2, intermediate_size=16, num_local_experts=8),
    causal("qwen2_moe", 2, _QWEN, _GQA, shared_expert_intermediate_size=16, num_hidden_layers=3, mlp_only_layers=[0]),
    causal("qwen3_moe", 2, _QWEN, _GQA, head_dim=8, norm_topk_prob=True),
    causal(
        "qwen3_next", 2, _QWEN, _GQA, head_dim=16, shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"], linear_key_head_dim=8, linear_value_head_dim=8,
        linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    causal(
        "afmoe", 2, _DENSE_FIRST_SLIDING, _GQA, head_dim=8, num_dense_layers=1, num_experts=8, num_shared_experts=1,
        route_scale=1.7,
    ),
    causal("axk1", 2, _DEEPSEEK, _MLA, _GROUPS, _MLP_TYPES),
    causal("axk2", 2, _DEEPSEEK, _MLA, _INDEXER, _MLP_TYPES, gated_norm_rank=4),
    causal("axk2:grouped", 2, _DEEPSEEK, _MLA, _INDEXER, _MLP_TYPES, gated_norm_rank=4, n_group=4, topk_group=2),
    causal(
        "bailing_hybrid", 2, _DEEPSEEK, _MLA, _GROUPS, _MLP_TYPES, _FIRST_DENSE, head_dim=8, num_mtp_layers=0,
        layer_types=["linear_attention", "linear_attention", "full_attention"], num_local_experts=8,
    ),
    causal(
        "beam", 2, _DENSE_FIRST_SLIDING, _GQA, _GROUPS, _MLP_TYPES, head_dim=8, num_experts=8,
        routed_scaling_factor=2.5,
    ),
    causal(
        "cohere2_moe", 2, _DENSE_FIRST_SLIDING, _GQA, _FIRST_DENSE, head_dim=8, num_experts=8, num_shared_experts=1,
        prefix_dense_intermediate_size=32, expert_selection_fn="sigmoid",
    ),
    causal("cohere2_moe:softmax", 2, _MOE, _SLIDING, _GQA, head_dim=8, num_experts=8),
    causal(
        "deepseek_v2", 2, _DEEPSEEK, _MLA, _GROUPS, _FIRST_DENSE, topk_method="group_limited_greedy",
        routed_scaling_factor=1.5, norm_topk_prob=False,
    ),
    causal("deepseek_v2:greedy", 2, _DEEPSEEK, _MLA, _FIRST_DENSE, routed_scaling_factor=1.0, norm_topk_prob=False),
    causal("deepseek_v3", 2, _DEEPSEEK, _MLA, _GROUPS, _FIRST_DENSE, num_mtp_layers=0),
    causal("deepseek_v32", 2, _DEEPSEEK, _MLA, _INDEXER, _GROUPS, _MLP_TYPES),
    causal(
        "deepseek_v4", 3, num_hidden_layers=3, num_key_value_heads=1, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16,
        o_groups=2, o_lora_rank=16, index_n_heads=2, index_head_dim=8, index_topk=4, n_routed_experts=8,
        moe_intermediate_size=16, hc_mult=2, sliding_window=8, num_nextn_predict_layers=0,
        mlp_layer_types=["hash_moe", "moe", "moe"], compress_rate_csa=2, compress_rate_hca=4,
        layer_types=["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
    ),
    causal("dots1", 2, _DEEPSEEK, _DENSE_FIRST_SLIDING, _GQA, _GROUPS, _FIRST_DENSE),
    causal(
        "ernie4_5_moe", 2, _DENSE_FIRST, _GQA, moe_num_experts=8, moe_num_shared_experts=1, moe_layer_start_index=1,
    ),
    causal("exaone_moe", 2, _DENSE_FIRST_SLIDING, _GQA, _GROUPS, _MLP_TYPES, num_experts=8),
    causal("flex_olmo", 2, _GQA, num_hidden_layers=2, intermediate_size=16, num_experts=8),
    causal(
        "flint", 2, _QWEN, _DENSE_FIRST_SLIDING, _GQA, head_dim=8, shared_expert_intermediate_size=16,
        mlp_only_layers=[0],
    ),
    causal(
        "glm4_moe", 2, _DEEPSEEK, _GQA, _GROUPS, _FIRST_DENSE, head_dim=8, use_qk_norm=True, routed_scaling_factor=1.5,
        num_mtp_layers=0,
    ),
    causal("glm4_moe_lite", 2, _DEEPSEEK, _MLA, _MLP_TYPES, routed_scaling_factor=1.8),
    causal("glm_moe_dsa", 2, _DEEPSEEK, _MLA, _INDEXER, _MLP_TYPES),
    causal(
        "gpt_oss", 2, _SLIDING, _GQA, num_hidden_layers=2, intermediate_size=16, head_dim=8, num_local_experts=8,
        # 32 times the length that its default rope scaling starts from, else transformers warns.
        max_position_embeddings=131072,
    ),
    causal("granitemoe", 2, _GRANITE),
    causal("granitemoe_swa", 2, _GRANITE, _SLIDING, shared_intermediate_size=16),
    causal(
        "granitemoehybrid", 2, _GRANITE, layer_types=["linear_attention", "full_attention"],
        shared_intermediate_size=16, mamba_n_heads=4, mamba_d_state=8, mamba_chunk_size=8,
    ),
    causal("granitemoeshared", 2, _GRANITE, shared_intermediate_size=16),
    causal("hunyuan_v1_moe", 2, _GQA, num_hidden_layers=2, intermediate_size=16, head_dim=8, num_experts=8),
)  # fmt: skip
