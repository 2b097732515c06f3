"""Models with routed sites beyond those of one text decoder: vision experts, a canvas, speech, a classifier.

Where a site is reached only by an image, the inputs hold one: its tokens stand first in every document.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.case import VOCABULARY, Case, text
from tests.zoo.composite import (
    DEPTH,
    EXPERTS,
    GEMMA,
    GEMMA_TOWER,
    GROUPED,
    IMAGE,
    IMAGE_TEXT,
    INDEXER,
    LAYERS,
    MLA,
    MROPE,
    SPARSE,
    TEXT,
    VIDEO,
    causal,
    composite,
    image_text,
    make,
)  # fmt: skip
from tests.zoo.truth import experts_call

_IMAGE_TOKENS = 4
"""Of one image of 4 x 4 patches, merged 2 by 2."""


def _with_images(ids: Tensor, mask: Tensor, patch: int) -> dict[str, Any]:
    """One image a document; ``patch`` is the number of values in one of its 16 patches."""
    first = mask.argmax(dim=1, keepdim=True) + torch.arange(_IMAGE_TOKENS)
    documents = ids.shape[0]
    return {
        **text(ids.scatter(1, first, IMAGE["image_token_id"]), mask),
        "pixel_values": torch.randn(documents * 16, patch, generator=torch.Generator().manual_seed(2)),
        "image_grid_thw": torch.tensor([[1, 4, 4]]).expand(documents, 3),
    }


def _dots_inputs(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    return _with_images(ids, mask, 3 * 4 * 4)


def _ernie_inputs(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    inputs = _with_images(ids, mask, 3 * 4 * 4)
    kinds = (inputs["input_ids"] == IMAGE["image_token_id"]).int()
    return {**inputs, "mm_token_type_ids": kinds, "moe_mm_token_type_ids": kinds}


def _canvas(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """The prefix and a canvas of 8 tokens; without one the model would draw it at random."""
    canvas = torch.randint(3, 250, (ids.shape[0], 8), generator=torch.Generator().manual_seed(3))
    return {**text(ids, mask), "decoder_input_ids": canvas}


def _spoken(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """The talker takes the embeddings that the thinker makes; what it says next follows from the other three."""
    table = torch.randn(VOCABULARY, TEXT["hidden_size"], generator=torch.Generator().manual_seed(4))
    return {
        "inputs_embeds": table[ids], "attention_mask": mask, "talker_input_ids": ids,
        "trailing_text_hidden": table[ids[:, :1]], "tts_pad_embed": table[:1][None], "output_hidden_states": True,
    }  # fmt: skip


_DOTS = {
    **TEXT, **MLA, **GROUPED, **INDEXER, **SPARSE, "head_dim": 16, "sliding_window": 8,
    "shared_experts_intermediate_size": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
}  # fmt: skip
_DOTS_TOWER = {
    **LAYERS, "num_hidden_layers": 2, "moe_intermediate_size": 8, "pyramid_num_routed": [-1, 8],
    "num_experts_per_tok": 2, "router_scaling_factor": 1.5, "adapter_in_dim": 16, "adapter_out_dim": 32,
}  # fmt: skip
_DOTS_EAR = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "feature_size": 8,
    "downsample_hidden_size": 8, "adapter_input_size": 16, "adapter_out_dim": 32,
}  # fmt: skip
_DOTS3 = image_text(
    "dots3_note", "Dots3Note", 2, **VIDEO, audio_token_id=302, text_config=_DOTS, vision_config=_DOTS_TOWER,
    audio_config=_DOTS_EAR,
)  # fmt: skip
_ERNIE = image_text(
    "ernie4_5_vl_moe", "Ernie4_5_VLMoe", 2, **VIDEO, image_start_token_id=302, image_end_token_id=303,
    video_start_token_id=304, video_end_token_id=305, vision_config=DEPTH | {"hidden_size": 32},
    text_config={
        **TEXT, **SPARSE, "moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1,
        "moe_intermediate_size": [16, 8], "rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]},
    },
)  # fmt: skip
_NEMOTRON = {
    **TEXT, **GROUPED, "model_type": "nemotron_h", "layers_block_type": ["linear_attention", "moe", "full_attention"],
    "head_dim": 8, "ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "chunk_size": 8,
    "moe_shared_expert_intermediate_size": 16, "routed_scaling_factor": 1.5,
}  # fmt: skip
_EAR = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_OMNI = {**TEXT, **EXPERTS, "head_dim": 8, "rope_parameters": MROPE}

_TALKER = {
    **VIDEO, "audio_token_id": 302, "audio_start_token_id": 303, "vision_start_token_id": 304, "codec_eos_token_id": 2,
    "codec_pad_id": 0, "codec_bos_id": 1, "thinker_hidden_size": 32, "num_code_groups": 2, "accept_hidden_layer": 1,
    "spatial_merge_size": 2, "text_config": {**_OMNI, "shared_expert_intermediate_size": 16},
    "code_predictor_config": {**TEXT, "head_dim": 8, "num_hidden_layers": 1, "num_code_groups": 2},
}  # fmt: skip


def _talker() -> nn.Module:
    """transformers 5.23.0 leaves the talker's experts as the memory was."""
    model = make("Qwen3OmniMoeTalkerForConditionalGeneration", "Qwen3OmniMoeTalkerConfig", _TALKER)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.normal_(std=0.02)
    return model


CASES: tuple[Case, ...] = (
    Case(
        "diffusion_gemma",
        partial(
            make, "DiffusionGemmaForBlockDiffusion", "DiffusionGemmaConfig",
            {
                **IMAGE, "boi_token_id": 302, "eoi_token_id": 303, "canvas_length": 8, "text_config": GEMMA,
                "vision_config": {**GEMMA_TOWER, "model_type": "gemma4_vision"},
            },
        ),
        experts_call, 6, inputs=_canvas, auto=IMAGE_TEXT, generates=False,
    ),
    causal("dots3_note:text", "Dots3NoteForCausalLM", "Dots3NoteTextConfig", 2, _DOTS),
    replace(_DOTS3, silent=1),
    replace(_DOTS3, name="dots3_note:image", sites=3, inputs=_dots_inputs),
    replace(_ERNIE, silent=2),
    replace(_ERNIE, name="ernie4_5_vl_moe:mixed", sites=4, inputs=_ernie_inputs),
    composite(
        "qwen3_omni_moe", "Qwen3OmniMoeThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerConfig", 3, **VIDEO,
        audio_token_id=302, audio_start_token_id=303, vision_start_token_id=304, text_config=_OMNI,
        vision_config={**DEPTH, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        audio_config={
            "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
            "d_model": 16, "output_dim": 32, "downsample_hidden_size": 8,
        },
    ),
    Case("qwen3_omni_moe:talker", _talker, experts_call, 3, inputs=_spoken, auto=None),
    composite(
        "nemotron_h_omni", "NemotronH_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3_Config", 1, backends=False,
        **VIDEO, audio_token_id=302, projector_hidden_size=16, vision_hidden_size=16, text_config=_NEMOTRON,
        vision_config={
            "model_type": "radio", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "mlp_ratio": 1.0, "patch_size": 4, "image_size": 16, "max_img_size": 16, "num_cls_tokens": 1,
            "num_registers": 1, "video_temporal_patch_size": 2,
        },
    ),
    composite(
        "nemo_speechlm", "Nemotron3_5TranscribeForConditionalGeneration", "Nemotron3_5TranscribeConfig", 1,
        auto="AutoModelForMultimodalLM", backends=False, audio_token_id=300, text_config=_NEMOTRON,
        word_timestamp_config={**_EAR, "vocab_size": 8, "blank_token_id": 7},
        audio_config={
            "asr_config": {**_EAR, "num_mel_bins": 8},
            "diarization_config": {
                "model_type": "nemotron3_diarization", "audio_config": {**_EAR, "num_mel_bins": 8},
                "head_config": {"hidden_size": 8, "audio_hidden_size": 16},
            },
        },
    ),
    Case(
        "openai_privacy_filter",
        partial(
            make, "OpenAIPrivacyFilterForTokenClassification", "OpenAIPrivacyFilterConfig",
            {**TEXT, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "intermediate_size": 16,
             "sliding_window": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        ),
        experts_call, 3, auto="AutoModelForTokenClassification", generates=False,
    ),
)  # fmt: skip
