"""Safetensors headers: which tensors a file holds, where, and whether the file is whole. No data is read."""

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from moeprobe.checkpoint.ranges import Files, LocalFiles
from moeprobe.errors import IncompleteError
from moeprobe.json_source import JsonError, parse_json

DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of every dtype that the format knows."""

_MAX_HEADER = 100_000_000  # the limit of the safetensors library itself
_MOST, _AXES = 2**63 - 1, 64  # what a size can be at all; larger numbers take for ever to multiply
_LFS_POINTER = b"version https://git-lfs"
_PLACE = b'"data_offsets"'


class TensorHeader(NamedTuple):
    """One stored tensor: its file, dtype (safetensors' name), shape, and its bytes [start, stop) there."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_headers(shards: Iterable[Path]) -> dict[str, TensorHeader]:
    """Headers of all tensors in the shards, by name; a name that stands in two shards means the later one.

    Raises:
        IncompleteError: a shard is a git-lfs pointer, truncated, or not a sound safetensors file.
    """
    headers: dict[str, TensorHeader] = {}
    for shard in shards:
        headers.update(read_header(LocalFiles(shard.parent), shard.name))
    return headers


def read_header(files: Files, name: str, guess: int = 4096) -> dict[str, TensorHeader]:
    """Headers of the tensors in one shard, by name.

    Args:
        files: where the shard lies.
        name: the shard's name there.
        guess: how long the header may be; one request suffices where it is not longer.

    Raises:
        IncompleteError: the shard is missing, a git-lfs pointer, truncated, or not a sound safetensors file.
    """
    file = files.label(name)
    start, size = files.read(name, 0, guess)
    if start.startswith(_LFS_POINTER):
        raise IncompleteError(f"{file} is a git-lfs pointer, not the weights; run `git lfs pull` in that folder.")
    length = int.from_bytes(start[:8], "little")
    if size < 8:
        raise _truncated(file, size)
    if length > _MAX_HEADER:
        raise IncompleteError(f"{file} is not a safetensors file, or its start is damaged; get it again.")
    if 8 + length > size:
        raise _truncated(file, size)
    if len(start) < 8 + length:
        start += files.read(name, len(start), 8 + length)[0]
    header = bytes(start[8 : 8 + length])
    try:
        table = parse_json(header, shallow=True)
        # Every entry says its place once; where one stands twice, the reader above has kept the last.
        if isinstance(table, dict) and header.count(_PLACE) != len(table) - ("__metadata__" in table):
            parse_json(header, unique=True)
    except JsonError as error:
        raise _damaged(file, f"its header: {error}") from error
    if not isinstance(table, dict):
        raise _damaged(file, "its header is not a table of tensors")
    told = table.pop("__metadata__", {})
    if not isinstance(told, dict) or any(type(value) is not str for value in told.values()):
        raise _damaged(file, "its __metadata__ is not a table of texts")
    path = Path(file)
    tensors = {tensor: _parse(path, tensor, entry, base=8 + length) for tensor, entry in table.items()}
    _check_extent(file, tensors, size, base=8 + length)
    return tensors


def _parse(path: Path, name: str, entry: Any, base: int) -> TensorHeader:
    # Written for speed: a large checkpoint has 100,000 of these.
    try:
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        numbers = (start, stop, *shape)
        sound = {*map(type, numbers)} == {int} and min(numbers) >= 0 and max(numbers) <= _MOST and len(shape) <= _AXES
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(str(path), f"the entry of {name} is not complete") from error
    if dtype not in DTYPE_BITS:
        raise _damaged(str(path), f"{name} has the unknown dtype {dtype!r}")
    if not sound or (stop - start) * 8 != prod(shape) * DTYPE_BITS[dtype]:
        raise _damaged(str(path), f"the shape of {name} does not agree with its bytes")
    return TensorHeader(path, dtype, shape, base + start, base + stop)


def _check_extent(file: str, tensors: dict[str, TensorHeader], size: int, base: int) -> None:
    position = base
    for start, stop, name in sorted((tensor.start, tensor.stop, name) for name, tensor in tensors.items()):
        if start != position:
            raise _damaged(file, f"there is a gap or an overlap before {name}")
        position = stop
    if position > size:
        raise _truncated(file, size, expected=position)
    if position < size:
        raise _damaged(file, f"{size - position:,} bytes follow its last tensor")


def _truncated(file: str, size: int, expected: int | None = None) -> IncompleteError:
    of = f" of {expected:,}" if expected else ""
    return IncompleteError(f"{file} is truncated (it holds {size:,}{of} bytes); copy or download it again.")


def _damaged(file: str, why: str) -> IncompleteError:
    return IncompleteError(f"{file} is damaged: {why}; copy or download it again.")
