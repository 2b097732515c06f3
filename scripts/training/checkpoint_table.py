"""The five tiny checkpoints: one configuration each, and how its experts are balanced."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import (
    DeepseekV3Config,
    DeepseekV4Config,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VOCABULARY = 2_048
LONGEST_ROW = 512
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

# Wider than the usual 0.02: these models are so narrow that 0.02 starts them nearly silent.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LONGEST_ROW,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}
SMALL: dict[str, Any] = COMMON | {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint is and how it is trained."""

    name: str
    folder: str
    config: Callable[[], PretrainedConfig]
    balance: Literal["bias", "loss"]
    features: str
    largest_megabytes: float
    steps: int = 1_500
    learning_rate: float = 2e-3

    @property
    def path(self) -> Path:
        """Where the finished checkpoint lies."""
        return REPOSITORY / self.folder


def deepseek_v4() -> PretrainedConfig:
    """Route two layers by token id, then four by score, with every kind of attention."""
    return DeepseekV4Config(
        **COMMON,
        hidden_size=128,
        num_hidden_layers=6,
        mlp_layer_types=["hash_moe"] * 2 + ["moe"] * 4,
        layer_types=["sliding_attention"] * 2 + ["compressed_sparse_attention", "heavily_compressed_attention"] * 2,
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 32},
        sliding_window=64,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=1,
        moe_intermediate_size=32,
        scoring_func="sqrtsoftplus",
        routed_scaling_factor=1.5,
        num_attention_heads=4,
        head_dim=32,
        partial_rotary_factor=0.5,
        q_lora_rank=64,
        o_groups=2,
        o_lora_rank=32,
        index_n_heads=2,
        index_head_dim=32,
        # The indexer gets no gradient from the language-model loss. Keeping every compressed
        # entry of the longest row leaves its untrained choice without effect.
        index_topk=LONGEST_ROW // 4,
        hc_mult=2,
        hc_sinkhorn_iters=6,
        num_nextn_predict_layers=0,
    )


def mixtral() -> PretrainedConfig:
    """Use the plainest router: softmax, two of eight, weights normalised."""
    return MixtralConfig(
        **SMALL,
        intermediate_size=64,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        router_aux_loss_coef=0.02,
    )


def qwen2_moe() -> PretrainedConfig:
    """Leave softmax weights unnormalised, with a shared expert behind a gate."""
    return Qwen2MoeConfig(
        **SMALL,
        num_key_value_heads=2,
        intermediate_size=128,
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=48,
        norm_topk_prob=False,
        router_aux_loss_coef=0.02,
    )


def qwen3_moe() -> PretrainedConfig:
    """Normalise softmax weights, without a shared expert."""
    return Qwen3MoeConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        router_aux_loss_coef=0.02,
    )


def deepseek_v3() -> PretrainedConfig:
    """Use sigmoid scores, limit the choice to two of four groups, start with a dense layer."""
    return DeepseekV3Config(
        **SMALL,
        num_key_value_heads=4,
        intermediate_size=128,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        num_mtp_layers=0,
    )


CHECKPOINTS = (
    Checkpoint(
        "deepseek-v4", "moeprobe/demo/tiny-deepseek-v4", deepseek_v4, "bias",
        "6 layers: 2 routed by token id, 4 learned; 16 experts, top-4, 1 shared; sqrtsoftplus scores",
        largest_megabytes=5.0,
    ),
    Checkpoint(
        "mixtral", "tests/checkpoints/mixtral", mixtral, "loss",
        "4 layers; 8 experts, top-2; softmax scores, weights normalised",
        largest_megabytes=1.5,
    ),
    Checkpoint(
        "qwen2-moe", "tests/checkpoints/qwen2_moe", qwen2_moe, "loss",
        "4 layers; 16 experts, top-4, 1 gated shared; softmax scores, weights not normalised",
        largest_megabytes=1.5,
    ),
    Checkpoint(
        "qwen3-moe", "tests/checkpoints/qwen3_moe", qwen3_moe, "loss",
        "4 layers; 16 experts, top-4; softmax scores, weights normalised",
        largest_megabytes=1.5,
    ),
    Checkpoint(
        "deepseek-v3", "tests/checkpoints/deepseek_v3", deepseek_v3, "bias",
        "4 layers, the first dense; 16 experts in 4 groups, top-4 within 2 groups, 1 shared; sigmoid scores",
        largest_megabytes=1.5,
    ),
)  # fmt: skip
