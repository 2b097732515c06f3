"""What ``--weights-only`` costs on checkpoints of real size: bytes and seconds, beside the library's own calls.

    python -m benchmarks.weights_only                      # all five shapes
    python -m benchmarks.weights_only --shape mixtral-8x22b --folder /some/disk

Each checkpoint is made of sparse files of true shape and true number of shards: the routers' tensors hold random
numbers, everything else is a hole, so that 700 GB take 250 MB of disk. Each reading runs in a process of its own with
the pages dropped from the cache before; three rounds are taken in turn, and the best counts. Bytes are those that the
kernel fetched (``read_bytes`` of /proc/self/io), seconds those from the first open to the last tensor, without the
start of Python, its imports, and the tables that transformers builds once a process (0.1 to 0.3 s).

*Bare* is what must be read: index, headers and routers, by os.pread and json, without a check. *Library* is
safetensors' own ``safe_open`` and ``get_tensor`` for every tensor of a router. *Judged* is the whole of
``check --weights-only`` after its imports, statistics and detectors included.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.sparse import SHAPES, build

# What runs in a process of its own: it prints seconds, bytes fetched by the kernel, and bytes asked for.
_COMMON = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
folder = sys.argv[1]
def fetched():
    return int(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["read_bytes"])
def import_class(folder):
    import importlib, transformers.integrations.moe
    kind = json.load(open(folder + "/config.json"))["model_type"]
    try:
        importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    except ImportError:
        pass  # transformers does not have it
"""
_READ = """
import torch, safetensors, numpy
from moeprobe import weights_scan
import moeprobe.checkpoint.hub
from moeprobe.checkpoint import names, raw_config
config = json.load(open(folder + "/config.json"))
names.module_tensors(config, []), raw_config.read_config(config, "")  # transformers builds its tables once a process
import_class(folder)
weights_scan._evidence = lambda gate, vocabulary, ids: weights_scan.RouterEvidence(router=gate.router)
start, before = time.perf_counter(), fetched()
found = weights_scan.scan(folder)
print(json.dumps([time.perf_counter() - start, fetched() - before, len(found.routers)]))
"""
_JUDGED = """
from moeprobe.pipeline import analyze
import transformers.conversion_mapping
from transformers.models.auto import configuration_auto
import_class(folder)
start, before = time.perf_counter(), fetched()
found = analyze(folder, weights_only=True)
print(json.dumps([time.perf_counter() - start, fetched() - before, len(found.evidence.routers)]))
"""
_BARE = """
import torch
start, before = time.perf_counter(), fetched()
index = json.load(open(folder + "/model.safetensors.index.json"))["weight_map"]
ends = ("gate.weight", "gate.bias", "e_score_correction_bias", "tid2eid")
count = 0
for shard in sorted(set(index.values())):
    file = os.open(os.path.join(folder, shard), os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    header = json.loads(os.pread(file, length, 8))
    for name, entry in header.items():
        if name.endswith(ends):
            first, last = entry["data_offsets"]
            data = os.pread(file, last - first, 8 + length + first)
            count += name.endswith("gate.weight")
    os.close(file)
print(json.dumps([time.perf_counter() - start, fetched() - before, count]))
"""
_LIBRARY = """
import torch
from safetensors import safe_open
start, before = time.perf_counter(), fetched()
index = json.load(open(folder + "/model.safetensors.index.json"))["weight_map"]
ends = ("gate.weight", "gate.bias", "e_score_correction_bias", "tid2eid")
count = 0
for name, shard in index.items():
    if name.endswith(ends):
        with safe_open(os.path.join(folder, shard), framework="pt") as file:
            tensor = file.get_tensor(name).clone()
            count += name.endswith("gate.weight")
print(json.dumps([time.perf_counter() - start, fetched() - before, count]))
"""


def measure(code: str, folder: Path) -> tuple[float, int, int]:
    """Seconds, bytes and routers of one reading, the pages of the checkpoint not in the cache."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    run = subprocess.run([sys.executable, "-c", _COMMON + code, str(folder)], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    seconds, size, count = json.loads(run.stdout.splitlines()[-1])
    return seconds, size, count


def main() -> None:
    """Build, read, print and remove one shape after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], action="append")
    parser.add_argument("--folder", help="where the sparse files go [default: the temporary folder]")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files go, too
    print("| shape | files | routers | bare | moeprobe | bytes over bare | seconds over bare | library | judged |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        if given.shape and shape.name not in given.shape:
            continue
        with tempfile.TemporaryDirectory(prefix="moeprobe-", dir=given.folder) as folder:
            started = time.perf_counter()
            total, routers = build(shape, Path(folder))
            print(f"built {shape.name} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            # The machine may be busy: the best of three, taken in turn.
            codes = (_BARE, _READ, _LIBRARY)
            rounds = [[measure(code, Path(folder)) for code in codes] for _ in range(3)]
            bare, ours, theirs = (min(column) for column in zip(*rounds, strict=True))
            judged = measure(_JUDGED, Path(folder))
        print(
            f"| {shape.name}, {shape.shards} shards, {ours[2]} routers | {total / 1e9:.0f} GB "
            f"| {routers / 1e6:.1f} MB | {_cost(bare)} | {_cost(ours)} | {ours[1] / bare[1]:.2f} x "
            f"| {ours[0] / bare[0]:.2f} x | {_cost(theirs)} | {judged[0]:.1f} s |",
            flush=True,
        )


def _cost(measured: tuple[float, int, int]) -> str:
    return f"{measured[1] / 1e6:.1f} MB in {measured[0]:.2f} s"


if __name__ == "__main__":
    main()
