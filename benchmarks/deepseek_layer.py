"""One layer of DeepSeek-V3 in its true shape, streamed expert by expert: seconds and peak memory.

    python benchmarks/deepseek_layer.py                   # all 256 experts: 13 GB on the disk, some minutes
    python benchmarks/deepseek_layer.py --experts 32      # an eighth of it; seconds are given for 256 as well

Builds a random checkpoint of one layer in the hub's layout and in its fp8 format (e4m3 with a scale for every block of
128 x 128, the last one ragged in ``kv_a_proj_with_mqa``), with the true embedding, in a temporary folder that is
removed in the end. Tokens are so many that an expert takes 128 rows on average, as with 4,096 tokens and 256 experts.
The page cache is emptied of the files before. Needs Linux.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import DeepseekV3Config

from benchmarks.streaming import evict, peak_memory, token_batches
from moeprobe.checkpoint.memory import steady_memory
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.records.stream import StreamedProbe
from moeprobe.routers.layout import layout_of

BLOCK = 128
HIDDEN, EXPERT, HEADS = 7168, 2048, 128
ATTENTION = {
    "q_a_proj": (1536, HIDDEN), "q_b_proj": (HEADS * 192, 1536), "kv_a_proj_with_mqa": (576, HIDDEN),
    "kv_b_proj": (HEADS * 256, 512), "o_proj": (HIDDEN, HEADS * 128),
}  # fmt: skip
PROJECTIONS = {"gate_proj": (EXPERT, HIDDEN), "up_proj": (EXPERT, HIDDEN), "down_proj": (HIDDEN, EXPERT)}


def build(folder: Path, experts: int) -> int:
    """Write the checkpoint and return its bytes."""
    config = DeepseekV3Config(
        num_hidden_layers=1, first_k_dense_replace=0, n_routed_experts=experts, dtype="bfloat16",
        architectures=["DeepseekV3ForCausalLM"],
    ).to_dict()  # fmt: skip
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(HIDDEN * EXPERT * 2, generator=generator)
    codes = (pool * 30).clamp(-400, 400).to(torch.float8_e4m3fn)
    table: dict[str, str] = {}
    total = 0

    def fp8(name: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        start = int(torch.randint(0, HIDDEN, (1,), generator=generator))
        size, rest = shape[0] * shape[1], codes[start:]
        weight = rest.repeat(-(-size // rest.numel()))[:size].reshape(shape).clone()
        grid = [-(-side // BLOCK) for side in shape]
        return {f"{name}.weight": weight, f"{name}.weight_scale_inv": torch.full(grid, 0.02 / 30)}

    def write(file: str, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal total
        save_file(tensors, folder / file, {"format": "pt"})
        table.update(dict.fromkeys(tensors, file))
        total += sum(tensor.nbytes for tensor in tensors.values())

    layer = "model.layers.0"
    rest: dict[str, Any] = {
        "model.embed_tokens.weight": pool[: HIDDEN * 1010].to(torch.bfloat16).repeat(128).reshape(-1, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
        "lm_head.weight": torch.zeros(129280, HIDDEN, dtype=torch.bfloat16),
        f"{layer}.mlp.gate.weight": pool[: experts * HIDDEN].reshape(experts, HIDDEN).mul(0.02).to(torch.bfloat16),
        f"{layer}.mlp.gate.e_score_correction_bias": torch.zeros(experts),
    }
    for name, width in (("input", HIDDEN), ("post_attention", HIDDEN)):
        rest[f"{layer}.{name}_layernorm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    for name, width in (("q_a", 1536), ("kv_a", 512)):
        rest[f"{layer}.self_attn.{name}_layernorm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    for name, shape in ATTENTION.items():
        rest |= fp8(f"{layer}.self_attn.{name}", shape)
    for name, shape in PROJECTIONS.items():
        rest |= fp8(f"{layer}.mlp.shared_experts.{name}", shape)
    write("rest.safetensors", rest)
    for first in range(0, experts, 16):
        part: dict[str, torch.Tensor] = {}
        for expert in range(first, min(first + 16, experts)):
            for name, shape in PROJECTIONS.items():
                part |= fp8(f"{layer}.mlp.experts.{expert}.{name}", shape)
        write(f"experts-{first:03d}.safetensors", part)
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def measure(folder: Path, experts: int, rows: int) -> None:
    """Stream the layer, and print what it took."""
    steady_memory()
    evict(folder)
    stream = LayerStream(open_checkpoint(folder), layout_of, by_expert=True)
    stream.open("auto", None, trust_remote_code=False)
    # A batch has 512 tokens.
    batches = list(token_batches(max(1, rows * experts // 8 // 512), 100_000))
    started, used = time.perf_counter(), sum(os.times()[:2])
    probe = StreamedProbe(stream, batches, lambda _batch, _record: None).run()
    seconds, used = time.perf_counter() - started, sum(os.times()[:2]) - used
    assert probe.recording.failure is None, probe.recording.failure
    print(
        f"{experts} experts, {512 * len(batches)} tokens, {torch.get_num_threads()} threads: {seconds:.1f} s "
        f"({used:.1f} s of processors), {seconds * 256 / experts:.1f} s for 256 experts at this pace; "
        f"read {stream.store.bytes_read / 1e9:.1f} GB, peak {peak_memory() / 1e9:.2f} GB"
    )


def main() -> None:
    """Build, measure, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--rows", type=int, default=128, help="rows that an expert takes on average")
    parser.add_argument("--folder", type=Path, help="where to build; a temporary folder of the system without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        child = os.fork()
        if not child:
            # What building takes must not count.
            build(Path(scratch), given.experts)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        measure(Path(scratch), given.experts, given.rows)


if __name__ == "__main__":
    main()
