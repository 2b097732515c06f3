"""Families that route in their own way: dense dispatch, two levels, product keys, dropped and skipped tokens."""

from functools import partial
from typing import Any

import transformers as hf
from torch import Tensor, nn

from tests.zoo import truth_odd
from tests.zoo.case import VOCABULARY, Case
from tests.zoo.causal import TINY, causal
from tests.zoo.truth import experts_call

_LLAMA4: dict[str, Any] = {
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16, "intermediate_size_mlp": 32,
    "num_local_experts": 8, "attention_chunk_size": 8,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 8,
    "patch_size": 2, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
}  # fmt: skip
_SEQ2SEQ_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32, "num_experts": 8}


def _dbrx() -> nn.Module:
    return hf.DbrxForCausalLM(
        hf.DbrxConfig(
            vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=256,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
            attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
        )
    )  # fmt: skip


def _llama4() -> nn.Module:
    text = TINY | _LLAMA4 | {"num_hidden_layers": 2, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1}
    return hf.Llama4ForConditionalGeneration(
        hf.Llama4Config(
            text_config=text, vision_config=_VISION, boi_token_index=301, eoi_token_index=302, image_token_index=303
        )
    )


def _llama4_text(top_k: int) -> nn.Module:
    settings = TINY | _LLAMA4 | {"num_hidden_layers": 2, "num_experts_per_tok": top_k, "interleave_moe_layer_step": 1}
    return hf.Llama4ForCausalLM(hf.Llama4TextConfig(**settings))


def _switch() -> nn.Module:
    """Four routed layers of eight; three tokens of a sequence fit into an expert, the others are dropped."""
    return hf.SwitchTransformersForConditionalGeneration(
        hf.SwitchTransformersConfig(
            **_SEQ2SEQ_SIZES, d_kv=8, d_ff=16, num_heads=4, num_layers=4, num_decoder_layers=4,
            num_sparse_encoder_layers=2, num_sparse_decoder_layers=2, expert_capacity=3,
            pad_token_id=0, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def _nllb(capacity: float) -> nn.Module:
    """Two routed layers of four; an expert takes this fraction of all tokens of the batch."""
    return hf.NllbMoeForConditionalGeneration(
        hf.NllbMoeConfig(
            **_SEQ2SEQ_SIZES, max_position_embeddings=256, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=16,
            decoder_ffn_dim=16, encoder_attention_heads=4, decoder_attention_heads=4, encoder_sparse_step=1,
            decoder_sparse_step=1, moe_eval_capacity_token_fraction=capacity,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def _both_sides(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Encoder and decoder see different token counts; the decoder's 8 tokens a sequence are all real."""
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :8]}


_SEQ2SEQ: dict[str, Any] = {"inputs": _both_sides, "auto": "AutoModelForSeq2SeqLM", "backends": False}


_LLAMA4_CASE: dict[str, Any] = {"truth": truth_odd.llama4_inputs, "backends": False}

CASES: tuple[Case, ...] = (
    Case("dbrx", _dbrx, experts_call, sites=2, backends=False),
    causal(
        "doge", 2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=16, is_moe=True, num_experts=64,
        num_experts_per_tok=4, truth=truth_odd.doge_lookups, backends=False,
    ),
    Case("switch_transformers", _switch, truth_odd.switch_executed, sites=4, **_SEQ2SEQ),
    Case("nllb_moe", partial(_nllb, capacity=0.2), truth_odd.nllb_intended, sites=4, **_SEQ2SEQ),
    Case("llama4", _llama4, sites=2, auto="AutoModelForImageTextToText", **_LLAMA4_CASE),
    Case("llama4:text", partial(_llama4_text, top_k=1), sites=2, **_LLAMA4_CASE),
    Case("llama4:top2", partial(_llama4_text, top_k=2), sites=2, **_LLAMA4_CASE),
    causal(
        "jetmoe", 4, num_key_value_heads=2, kv_channels=8, num_hidden_layers=2, intermediate_size=16,
        num_local_experts=8, truth=truth_odd.jetmoe_splits, backends=False,
    ),
    causal(
        "longcat_flash", 2, num_layers=2, num_key_value_heads=4, ffn_hidden_size=32, q_lora_rank=16, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, head_dim=8, v_head_dim=8, n_routed_experts=8, num_experts_per_tok=3,
        zero_expert_num=4, expert_ffn_hidden_size=16, routed_scaling_factor=2.0, backends=False,
    ),
    causal(
        "zaya", 3, num_key_value_heads=2, head_dim=8, num_hidden_layers=3, moe_intermediate_size=16, num_experts=8,
        num_experts_per_tok=1, router_hidden_size=16, truth=truth_odd.zaya_unskipped,
    ),
)  # fmt: skip
