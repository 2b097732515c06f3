"""Sparse checkpoints of true shape: names, dtypes and shapes of every tensor, none of the numbers."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4, "I64": 8, "I8": 1, "F8_E8M0": 1}
ROUTERS = ("gate.weight", "gate.bias", "e_score_correction_bias", "tid2eid")
"""How the names of the routers' tensors end."""
Entry = tuple[str, str, tuple[int, ...]]
"""Name, dtype, shape."""


@dataclass(frozen=True)
class Shape:
    """A published checkpoint: its config, its number of shards, and its tensors."""

    name: str
    shards: int
    config: dict[str, Any]
    tensors: Callable[[], Iterator[Entry]]


def _quantised(name: str, rows: int, columns: int) -> Iterator[Entry]:
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))


def _deepseek(layers: int, dense: int, experts: int, heads: int) -> Iterator[Entry]:
    """DeepSeek-V3 and Kimi-K2: latent attention, fp8 with scales of 128 x 128."""
    hidden, vocabulary = 7168, 129280 if experts == 256 else 163840
    yield "model.embed_tokens.weight", "BF16", (vocabulary, hidden)
    yield "lm_head.weight", "BF16", (vocabulary, hidden)
    yield "model.norm.weight", "BF16", (hidden,)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", "BF16", (hidden,)
        yield f"{at}.self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield f"{at}.self_attn.kv_a_layernorm.weight", "BF16", (512,)
        for part, rows, columns in (
            ("q_a_proj", 1536, hidden), ("q_b_proj", heads * 192, 1536), ("kv_a_proj_with_mqa", 576, hidden),
            ("kv_b_proj", heads * 256, 512), ("o_proj", hidden, heads * 128),
        ):  # fmt: skip
            yield from _quantised(f"{at}.self_attn.{part}", rows, columns)
        holders = [("mlp", 18432)] if layer < dense else [("mlp.shared_experts", 2048)]
        if layer >= dense:
            yield f"{at}.mlp.gate.weight", "BF16", (experts, hidden)
            yield f"{at}.mlp.gate.e_score_correction_bias", "F32", (experts,)
            holders += [(f"mlp.experts.{expert}", 2048) for expert in range(experts)]
        for holder, width in holders:
            yield from _quantised(f"{at}.{holder}.gate_proj", width, hidden)
            yield from _quantised(f"{at}.{holder}.up_proj", width, hidden)
            yield from _quantised(f"{at}.{holder}.down_proj", hidden, width)


def _deepseek_v4() -> Iterator[Entry]:
    """DeepSeek-V4-Pro: 61 layers of which three have hash tables, 384 experts of 4 bits."""
    hidden, width, experts = 7168, 3072, 384
    yield "embed.weight", "BF16", (129280, hidden)
    yield "head.weight", "BF16", (129280, hidden)
    yield "norm.weight", "BF16", (hidden,)
    for layer in range(61):
        at = f"layers.{layer}"
        yield f"{at}.attn_norm.weight", "BF16", (hidden,)
        yield f"{at}.ffn_norm.weight", "BF16", (hidden,)
        yield f"{at}.ffn.gate.weight", "BF16", (experts, hidden)
        if layer < 3:
            yield f"{at}.ffn.gate.tid2eid", "I64", (129280, 6)
        else:
            yield f"{at}.ffn.gate.bias", "F32", (experts,)
        for part, rows, columns in (
            ("wq_a", 1536, hidden), ("wq_b", 65536, 1536), ("wkv", 512, hidden), ("wo_a", 16384, 4096),
            ("wo_b", hidden, 16384),
        ):  # fmt: skip
            yield f"{at}.attn.{part}.weight", "F8_E4M3", (rows, columns)
            yield f"{at}.attn.{part}.scale", "F8_E8M0", (-(-rows // 128), -(-columns // 128))
        for holder in ("shared_experts", *(f"experts.{expert}" for expert in range(experts))):
            for part, rows, columns in (("w1", width, hidden), ("w3", width, hidden), ("w2", hidden, width)):
                yield f"{at}.ffn.{holder}.{part}.weight", "I8", (rows, columns // 2)
                yield f"{at}.ffn.{holder}.{part}.scale", "F8_E8M0", (rows, columns // 32)


def _plain(
    layers: int, hidden: int, vocabulary: int, heads: tuple[int, int], experts: tuple[str, int, int, tuple[str, ...]]
) -> Iterator[Entry]:
    """Qwen3-MoE and Mixtral: grouped-query attention, bfloat16. ``experts``: block, number, width, matrices."""
    block, count, width, matrices = experts
    yield "model.embed_tokens.weight", "BF16", (vocabulary, hidden)
    yield "lm_head.weight", "BF16", (vocabulary, hidden)
    yield "model.norm.weight", "BF16", (hidden,)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", "BF16", (hidden,)
        for part, rows in (("q_proj", heads[0]), ("k_proj", heads[1]), ("v_proj", heads[1])):
            yield f"{at}.self_attn.{part}.weight", "BF16", (rows * 128, hidden)
        yield f"{at}.self_attn.o_proj.weight", "BF16", (hidden, heads[0] * 128)
        yield f"{at}.{block}.gate.weight", "BF16", (count, hidden)
        for expert in range(count):
            for name in matrices:
                down = name in ("down_proj", "w2")
                shape = (hidden, width) if down else (width, hidden)
                yield f"{at}.{block}.experts.{expert}.{name}.weight", "BF16", shape


_V3 = {
    "hidden_size": 7168, "num_hidden_layers": 61, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "n_routed_experts": 256, "n_shared_experts": 1, "vocab_size": 129280, "torch_dtype": "bfloat16",
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_attention_heads": 128, "num_nextn_predict_layers": 1,
}  # fmt: skip
_GATED = ("gate_proj", "up_proj", "down_proj")

SHAPES = (
    Shape(
        "deepseek-v3", 163, {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], **_V3},
        lambda: _deepseek(62, 3, 256, 128),
    ),
    Shape(
        "deepseek-v4-pro", 64,
        {
            "model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"], "hidden_size": 7168,
            "num_hidden_layers": 61, "num_experts_per_tok": 6, "n_routed_experts": 384, "scoring_func": "sqrtsoftplus",
            "norm_topk_prob": True, "routed_scaling_factor": 2.5, "vocab_size": 129280, "torch_dtype": "bfloat16",
            "moe_intermediate_size": 3072,
        },
        _deepseek_v4,
    ),
    Shape(
        "kimi-k2", 61,
        {
            "model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], **_V3,
            "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "n_group": 1, "topk_group": 1,
            "n_routed_experts": 384, "vocab_size": 163840, "routed_scaling_factor": 2.827, "first_k_dense_replace": 1,
            "num_attention_heads": 64, "num_nextn_predict_layers": 0,
        },
        lambda: _deepseek(61, 1, 384, 64),
    ),
    Shape(
        "qwen3-235b", 118,
        {
            "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 4096,
            "num_hidden_layers": 94, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True,
            "vocab_size": 151936, "torch_dtype": "bfloat16", "moe_intermediate_size": 1536, "num_attention_heads": 64,
            "num_key_value_heads": 4,
        },
        lambda: _plain(94, 4096, 151936, (64, 4), ("mlp", 128, 1536, _GATED)),
    ),
    Shape(
        "mixtral-8x22b", 59,
        {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 6144,
            "num_hidden_layers": 56, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000,
            "torch_dtype": "bfloat16", "intermediate_size": 16384, "num_attention_heads": 48, "num_key_value_heads": 8,
        },
        lambda: _plain(56, 6144, 32000, (48, 8), ("block_sparse_moe", 8, 16384, ("w1", "w2", "w3"))),
    ),
)  # fmt: skip


def build(shape: Shape, folder: Path) -> tuple[int, int]:
    """Write the sparse checkpoint; bytes of its shards and of the routers' tensors in them."""
    entries = [(name, dtype, sizes, int(np.prod(sizes)) * _BYTES[dtype]) for name, dtype, sizes in shape.tensors()]
    total, seen, routers = sum(entry[3] for entry in entries), 0, 0
    shards: list[list[tuple[str, str, tuple[int, ...], int]]] = [[] for _ in range(shape.shards)]
    for entry in entries:
        shards[min(shape.shards - 1, seen * shape.shards // total)].append(entry)
        seen += entry[3]
    weight_map, rng = {}, np.random.default_rng(0)
    for number, held in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{shape.shards:05d}.safetensors"
        weight_map |= {entry[0]: file for entry in held}
        routers += _write(folder / file, held, rng)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(shape.config, indent=2))
    return total, routers


def _write(file: Path, held: list[tuple[str, str, tuple[int, ...], int]], rng: np.random.Generator) -> int:
    """One shard, its tensors ordered as safetensors does: by the size of the dtype, then by name."""
    ordered = sorted(held, key=lambda entry: (-_BYTES[entry[1]], entry[1], entry[0]))
    table, position, places, written = {}, 0, [], 0
    for name, dtype, sizes, size in ordered:
        table[name] = {"dtype": dtype, "shape": list(sizes), "data_offsets": [position, position + size]}
        places.append((name, dtype, sizes, position))
        position += size
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for name, dtype, sizes, place in places:
            if name.endswith(ROUTERS):
                stream.seek(8 + len(raw) + place)
                written += stream.write(_numbers(dtype, sizes, rng))
            elif name.endswith("ffn_norm.weight"):
                stream.seek(8 + len(raw) + place)
                stream.write(np.full(sizes, 0x3F80, "<u2").tobytes())  # one, in bfloat16
        stream.truncate(8 + len(raw) + position)
        os.fsync(stream.fileno())
    return written


def _numbers(dtype: str, sizes: tuple[int, ...], rng: np.random.Generator) -> bytes:
    if dtype == "I64":
        start = rng.integers(0, 384, (sizes[0], 1))
        return ((start + np.arange(sizes[1]) * 61) % 384).astype("<i8").tobytes()
    values = rng.standard_normal(sizes, dtype=np.float32) * np.float32(0.02 if len(sizes) == 2 else 0.1)
    if dtype == "F32":
        return (values + 5).astype("<f4").tobytes()
    return (values.view("<u4") >> 16).astype("<u2").tobytes()
