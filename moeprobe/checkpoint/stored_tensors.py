"""Stored tensors: headers and numbers of a few tensors out of many, through the index and ranges of the shards."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from moeprobe.checkpoint.headers import TensorHeader, read_header
from moeprobe.checkpoint.ranges import Files

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""Dtypes that are read; those of 8 bits and fewer may be codes, which ``quantised`` makes numbers of."""

_ENTRY = 112
"""Bytes of a tensor's entry in a header, beside its name: more than nearly all have."""


def read_all_headers(files: Files, shards: Mapping[str, Collection[str]]) -> dict[str, TensorHeader]:
    """Headers of these shards, by tensor; ``shards`` gives the names of the tensors in each, as far as they are known.

    Raises:
        IncompleteError: a shard is missing or damaged.
        CheckpointError: one cannot be read.

    """

    def read(shard: str) -> dict[str, TensorHeader]:
        names = shards[shard]
        guess = 8 + 64 + sum(len(name) + _ENTRY for name in names) if names else 1 << 14
        return read_header(files, shard, guess)

    found: dict[str, TensorHeader] = {}
    if files.at_hand:  # parsing takes longer than reading, and threads would wait for each other
        for shard in shards:
            found.update(read(shard))
        return found
    with ThreadPoolExecutor(files.workers) as pool:
        for headers in pool.map(read, shards):
            found.update(headers)
    return found


def read_tensors(files: Files, headers: Iterable[tuple[str, TensorHeader]]) -> dict[str, "Tensor"]:
    """The tensors by name, as they are stored; those of a dtype that torch has no plain tensors of are left out.

    Tensors that lie near each other in one file are read together.

    Raises:
        CheckpointError: a file cannot be read, or became shorter.

    """
    import torch

    wanted = sorted(
        ((name, header) for name, header in headers if hasattr(torch, _DTYPES.get(header.dtype, ""))),
        key=lambda entry: (entry[1].file.name, entry[1].start),
    )
    runs: list[list[tuple[str, TensorHeader]]] = []
    for entry in wanted:
        last = runs[-1][-1][1] if runs else None
        near = last is not None and last.file == entry[1].file and entry[1].start - last.stop <= files.slack
        if near:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    found = {}
    for run in runs:
        start, stop = run[0][1].start, run[-1][1].stop
        content, _ = files.read(run[0][1].file.name, start, stop)
        for name, header in run:
            # A copy of its own: a run need not begin where the dtype of every tensor in it may.
            own = content[header.start - start : header.stop - start] if len(run) > 1 else content
            dtype = getattr(torch, _DTYPES[header.dtype])
            flat = torch.frombuffer(own, dtype=dtype) if own else torch.empty(0, dtype=dtype)
            found[name] = flat.reshape(header.shape)
    return found
