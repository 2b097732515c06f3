"""Overhead: what recording costs beside the forward pass that it watches, in CPU time and in memory.

    OMP_NUM_THREADS=1 python -m benchmarks.overhead             # the table; --markdown FILE writes it, too
    pip install moewatch                                        # peers that can be imported are measured beside

A random Qwen3-MoE model (8 layers, hidden size 512, 64 experts, top-8, float32) reads 4 x 256 random tokens. In every
round each way of running reads the same batch once, in an order that turns from round to round, so that what else
happens on the machine hits all of them; the bare forward pass runs twice, and the ratio of the two is the noise.
Given are the median over rounds of the ratio of CPU times (``time.process_time``) within a round, and the ratio of the
least CPU times. Hooks are put on and taken off inside the timing. What happens once in an analysis (the facts of the
routers are read on the first batch) is given beside, in seconds.

Memory: peak resident memory after 4k tokens, and how much more it is after 64k, each way in a process of its own, on a
narrow model (what a recorder keeps depends on tokens, experts and layers).
"""

import argparse
import gc
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeprobe.experiments.gradient import GradientTest
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.load import LoadStatistic
from moeprobe.statistics.observation import Observation

ROWS, LENGTH, EXPERTS, TOP_K, LAYERS, VOCABULARY = 4, 256, 64, 8, 8, 32_000
SIZES = (4_096, 65_536)
Way = Callable[[Iterable[Tensor]], None]
"""Reads batches [rows, length] with one method."""


def build(hidden: int) -> Any:
    """A random model whose routers prefer some experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=2 * hidden, moe_intermediate_size=hidden // 2,
        num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=4, head_dim=64, num_experts=EXPERTS,
        num_experts_per_tok=TOP_K, norm_topk_prob=True,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batches(count: int) -> list[Tensor]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator) for _ in range(count)]


def forward(model: Any, ids: Tensor, **more: Any) -> Any:
    """One forward pass, with the logits of one position."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, logits_to_keep=1, **more)


def ways(model: Any) -> dict[str, Way]:
    """Every way of running, by its name in the table."""
    sources = ["a", "b", "a", "b"]
    load: dict[str, LoadStatistic] = {}
    everything = Collector(sources, batches(1)[0].flatten())
    gradient = GradientTest()

    def count(record: Record) -> None:
        if record.router.path not in load:
            load[record.router.path] = LoadStatistic(record.router, sources)
        load[record.router.path].update(Observation(record))

    def summarise(record: Record) -> None:
        everything.update(record)
        gradient.update(record)

    def recorded(sink: Callable[[Record], None], keep_inputs: bool, end: Callable[[], object] = lambda: None) -> Way:
        recording = Recording(model, sink=sink, keep_inputs=keep_inputs)

        def run(read: Iterable[Tensor]) -> None:
            with recording:
                for ids in read:
                    forward(model, ids)
                    end()

        return run

    def bare(read: Iterable[Tensor]) -> None:
        for ids in read:
            forward(model, ids)

    def native(read: Iterable[Tensor]) -> None:
        for ids in read:
            for logits in forward(model, ids, output_router_logits=True).router_logits:
                torch.bincount(logits.topk(TOP_K, dim=-1).indices.flatten(), minlength=EXPERTS)

    found: dict[str, Way] = {
        "bare": bare,
        "bare, again (noise)": bare,
        "recording": recorded(lambda _: None, False),
        "recording and load": recorded(count, False),
        "all statistics": recorded(summarise, True, lambda: everything.routers),
        "output_router_logits": native,
    }
    if importlib.util.find_spec("moewatch"):
        found["moewatch"] = moewatch(model)
    return found


def moewatch(model: Any) -> Way:
    """The peer of that name on PyPI: its audit of every forward pass, with its report."""
    import moewatch as peer

    def run(read: Iterable[Tensor]) -> None:
        inputs = [{"input_ids": ids, "use_cache": False, "logits_to_keep": 1} for ids in read]
        config = peer.WatchConfig(output="silent", sample_every=1)
        peer.audit(model, inputs, steps=len(inputs), config=config, verbose=False).to_json()

    return run


def measure_time(rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """CPU seconds of every way in every round, and of its first batch."""
    found, one = ways(build(512)), batches(1)
    first = {name: _seconds(way, one) for name, way in found.items()}
    first = {name: _seconds(way, one) if name.startswith("bare") else first[name] for name, way in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned if number % 2 else reversed(turned):
            gc.collect()
            times[name].append(_seconds(found[name], one))
    return times, first


def _seconds(way: Way, read: list[Tensor]) -> float:
    before = time.process_time()
    way(read)
    return time.process_time() - before


def measure_memory(name: str) -> float:
    """MB by which peak memory grows from 4k to 64k tokens, in this process."""
    way, peaks = ways(build(64))[name], []
    for tokens in SIZES:
        way(iter(batches(tokens // (ROWS * LENGTH))) if name != "moewatch" else batches(tokens // (ROWS * LENGTH)))
        gc.collect()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks[1] - peaks[0]


def table(times: dict[str, list[float]], first: dict[str, float], growth: dict[str, float]) -> str:
    """The result as Markdown."""
    bare = times["bare"]
    lines = [
        "| way of running | CPU time, median ratio (quartiles) | of the least | once, at the start | memory, 4k to 64k |",  # noqa: E501
        "|---|---|---|---|---|",
    ]
    for name, own in times.items():
        if name == "bare":
            lines.append(f"| {name} | 1 | 1 ({min(bare):.3f} s) | | {growth[name]:.1f} MB |")
            continue
        ratios = [mine / its for mine, its in zip(own, bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        once = first[name] - statistics.median(own)
        starts = f"{once:.2f} s" if name.startswith(("recording", "all")) else ""
        lines.append(
            f"| {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {min(own) / min(bare):.3f} | {starts} "
            f"| {growth[name]:.1f} MB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of)))
        return
    times, first = measure_time(options.rounds)
    growth = {}
    for name in times:
        command = [sys.executable, "-m", "benchmarks.overhead", "--memory-of", name]
        growth[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    made = table(times, first, growth)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, {options.rounds} rounds\n\n{made}", end="")
    if options.markdown:
        options.markdown.write_text(made)


if __name__ == "__main__":
    main()
