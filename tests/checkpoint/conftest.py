import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

if TYPE_CHECKING:
    from tests.checkpoint.fake_hub import Hub

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def _config(kind: str) -> Any:
    import transformers as hf

    if kind == "llama":
        return hf.LlamaConfig(**TINY)
    if kind == "mixtral":
        return hf.MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2)
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 8,
    }
    if kind == "deepseek_v3":
        small = {
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 4,
        }
        shape = TINY | {"num_key_value_heads": 2}
        return hf.DeepseekV3Config(**shape, **experts, **small, n_group=2, topk_group=1, first_k_dense_replace=1)
    return hf.DeepseekV4Config(
        **TINY,
        **experts,
        head_dim=8,
        q_lora_rank=8,
        o_lora_rank=8,
        o_groups=2,
        index_head_dim=8,
        index_n_heads=2,
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a tiny random model of one kind once, and hand out the folder (not to be changed)."""
    done: dict[tuple[Any, ...], Path] = {}

    def save(kind: str, dtype: str = "float32", shard: str = "1GB") -> Path:
        import torch
        import transformers as hf

        key = (kind, dtype, shard)
        if key not in done:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp("saved") / f"tiny-{kind}"
            model = hf.AutoModelForCausalLM.from_config(_config(kind)).to(getattr(torch, dtype))
            model.save_pretrained(folder, max_shard_size=shard)
            done[key] = folder
        return done[key]

    return save


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of small hand-made files: a dict becomes JSON, text and bytes stay."""

    def write(**files: Any) -> Path:
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Hub]":
    """A hub of our own, over HTTP."""
    from tests.checkpoint.fake_hub import serve

    with serve(tmp_path, monkeypatch) as fake:
        yield fake
