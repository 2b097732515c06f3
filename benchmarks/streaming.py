"""Streaming against accelerate's disk offload: bytes read and written, peak memory, seconds.

    python benchmarks/streaming.py                       # about 5 GB a model, 1, 8 and 32 batches; 10 to 20 minutes
    python benchmarks/streaming.py --gigabytes 1 --batches 1 4

Builds random bfloat16 checkpoints of the shapes of Mixtral and Qwen3-MoE in the layout of the hub, in a temporary
folder that is removed in the end. Every measurement is a process of its own that begins with an empty page cache (as
far as these files are concerned). Bytes are what the system read from and wrote to the disk for that process
(``/proc/self/io``), so it needs Linux. Imports are the same for all and are made before the clock starts; processor
seconds are those of the whole process, with its start. Peak memory is the largest resident set, in which files mapped
into memory count. A batch has 4 rows of 128 tokens. accelerate is given 1.5 GB of memory, and the page cache loses its
files after every batch, since it could not hold a checkpoint larger than the memory; its process records nothing, ours
records every router and looks at every expert's weights. All methods use the same number of threads. On a machine with
other work one thread is the fair choice: of several, all wait for the one whose processor is busy.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS, LENGTH = 4, 128
LIMIT = "1500MB"
METHODS = ("accelerate", "layer", "expert")
POOL = 2**24 - 3

SHAPES: dict[str, dict[str, Any]] = {
    "mixtral": {
        "hidden_size": 2048, "intermediate_size": 3584, "num_local_experts": 8, "num_experts_per_tok": 2,
        "vocab_size": 32000, "num_attention_heads": 16, "num_key_value_heads": 4,
    },
    "qwen3_moe": {
        "hidden_size": 2048, "moe_intermediate_size": 256, "num_experts": 128, "num_experts_per_tok": 8,
        "vocab_size": 32000, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 256, "decoder_sparse_step": 1,
    },
}  # fmt: skip
LAYER_BYTES = {"mixtral": 373e6, "qwen3_moe": 425e6}


def build(family: str, folder: Path, gigabytes: float) -> int:
    """Write a random checkpoint, tensor by tensor, and return its bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    layers = max(2, round(gigabytes * 1e9 / LAYER_BYTES[family]))
    config = AutoConfig.for_model(family, **SHAPES[family], num_hidden_layers=layers, dtype="bfloat16")
    config.architectures = [type(AutoModelForCausalLM.from_config(tiny(config))).__name__]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    # Of a length that no expert's size divides: experts must not be equal.
    pool = torch.randn(POOL, generator=generator).mul_(0.02).to(torch.bfloat16)

    def random(shape: Any) -> Any:
        size = shape.numel()
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        start = int(torch.randint(0, POOL, (1,), generator=generator))
        return pool.roll(-start).repeat(-(-size // POOL))[:size].reshape(shape)

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    table: dict[str, str] = {}
    shard: dict[str, Any] = {}
    files = total = 0

    def write() -> None:
        nonlocal files
        name = f"model-{files:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        table.update(dict.fromkeys(shard, name))
        files += 1
        shard.clear()

    # One layer of the hub's names at a time: the conversion back is transformers' own.
    meta = model.state_dict()
    groups: dict[str, list[str]] = {}
    for name in meta:
        parts = name.split(".")
        groups.setdefault(".".join(parts[:3]) if "layers" in parts else "rest", []).append(name)
    mapped = getattr(model, "_weight_conversions", None)
    if not mapped:
        from transformers.conversion_mapping import get_model_conversion_mapping

        model._weight_conversions = get_model_conversion_mapping(model)
    for names in groups.values():
        made = {name: random(meta[name].shape) for name in names}
        shard.update({name: t.contiguous() for name, t in revert_weight_conversion(model, made).items()})
        total += sum(t.nbytes for t in shard.values())
        write()
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def tiny(config: Any) -> Any:
    """The same config, small enough to be built only to learn its class."""
    small = type(config).from_dict(config.to_dict())
    for name in ("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "head_dim"):
        if hasattr(small, name) and getattr(small, name):
            setattr(small, name, 32)
    small.num_hidden_layers, small.num_attention_heads, small.num_key_value_heads = 1, 2, 1
    return small


def evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def token_batches(count: int, vocabulary: int) -> Iterator[Any]:
    """Random tokens."""
    import torch

    from moeprobe.probes.batches import Batch

    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        ids = torch.randint(0, vocabulary, (ROWS, LENGTH), generator=generator)
        mask = torch.ones_like(ids)
        yield Batch(ids, mask, mask.bool(), [ROWS * index + row for row in range(ROWS)], ["random"] * ROWS)


def counters() -> dict[str, int]:
    """What the system read and wrote for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    found = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return {"read": found["read_bytes"], "written": found["write_bytes"]}


def peak_memory() -> int:
    """Largest resident set so far; not ``getrusage``, which inherits that of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(folder: Path, method: str, batches: int) -> None:
    """One measurement, in this process; prints it as JSON."""
    _import()
    before, start = counters(), time.perf_counter()
    ready = accelerated(folder, batches) if method == "accelerate" else streamed(folder, batches, method == "expert")
    after, seconds = counters(), time.perf_counter() - start
    figures = {
        "seconds": seconds,
        "first": ready - start,
        "processor": sum(os.times()[:2]),
        "peak": peak_memory(),
        **{name: after[name] - before[name] for name in before},
    }
    print(json.dumps(figures))


def _import() -> None:
    """What every method needs; imports take the same few seconds for all, and are not measured."""
    import accelerate  # noqa: F401
    import transformers

    import moeprobe.records.stream  # noqa: F401

    for family in SHAPES:
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(transformers.AutoConfig.for_model(family))]


def accelerated(folder: Path, batches: int) -> float:
    """Disk offload; returns when the first batch began."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory(dir=folder.parent) as offload:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", device_map="auto", max_memory={"cpu": LIMIT}, offload_folder=offload
        )
        ready = time.perf_counter()
        with torch.no_grad():
            for batch in token_batches(batches, model.config.vocab_size):
                # A checkpoint larger than the memory does not stay in the page cache from batch to batch.
                evict(folder)
                evict(Path(offload))
                model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=1)
    return ready


def streamed(folder: Path, batches: int, by_expert: bool) -> float:
    """Layer by layer; returns when the first batch began."""
    from moeprobe.checkpoint.memory import steady_memory
    from moeprobe.checkpoint.open import open_checkpoint
    from moeprobe.checkpoint.streamed import LayerStream
    from moeprobe.records.stream import StreamedProbe
    from moeprobe.routers.layout import layout_of

    steady_memory()
    stream = LayerStream(open_checkpoint(folder), layout_of, by_expert)
    stream.open("auto", None, False)
    ready = time.perf_counter()
    tokens = list(token_batches(batches, stream.model.config.vocab_size))
    probe = StreamedProbe(stream, tokens, lambda _batch, _record: None).run()
    assert probe.recording.failure is None, probe.recording.failure
    assert len(probe.recording.gates) == len(stream.layout.layers)
    return ready


def run(folder: Path, method: str, batches: int, threads: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    evict(folder)
    command = [sys.executable, __file__, "--measure", str(folder), method, str(batches)]
    alone = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=alone)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Build, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--families", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every method; all cores without it")
    parser.add_argument("--folder", type=Path, help="where to build; a temporary folder of the system without it")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(Path(given.measure[0]), given.measure[1], int(given.measure[2]))
        return
    titles = ["model", "batches", "method", "read GB", "written GB", "peak GB", "first batch after s", "seconds"]
    titles += ["processor s", "of accelerate's seconds"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for family in given.families:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            folder = Path(scratch) / family
            folder.mkdir()
            size = build(family, folder, given.gigabytes) / 1e9
            for batches in given.batches:
                against = None
                for method in given.methods:
                    seen = run(folder, method, batches, given.threads)
                    against = seen["seconds"] if method == "accelerate" else against
                    ratio = f"{seen['seconds'] / against:.2f}" if against else ""
                    print(
                        f"| {family}, {size:.1f} GB | {batches} | {method} | {seen['read'] / 1e9:.1f} "
                        f"| {seen['written'] / 1e9:.1f} | {seen['peak'] / 1e9:.2f} | {seen['first']:.1f} "
                        f"| {seen['seconds']:.0f} | {seen['processor']:.0f} | {ratio} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
