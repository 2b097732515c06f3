"""Stored tensors: read by position out of their file when they are asked for, and counted.

They stand in for the slices of the safetensors library in transformers' loading. A read by position, unlike a
memory map, says so when a file has become shorter (a map would end the process), and leaves no page behind that
counts as the process's own memory.
"""

import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.errors import CheckpointError, IncompleteError

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_PART = 2**30  # one read call takes at most 2 GiB
_NEAR = 2**16


class Store:
    """All tensors of a checkpoint, by their names in the files.

    Args:
        headers: where every tensor lies.

    """

    def __init__(self, headers: Mapping[str, TensorHeader]) -> None:
        self._headers = headers
        self.bytes_read = 0
        """Bytes of tensors read so far."""

    def __getitem__(self, name: str) -> "StoredTensor":
        return StoredTensor(self, self._headers[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in the file."""
        return self._headers[name].shape

    def size(self, names: Iterable[str]) -> int:
        """Bytes of these tensors in the files."""
        return sum(self._headers[name].stop - self._headers[name].start for name in names)

    def expect(self, names: Iterable[str]) -> None:
        """Tell the system that these will be read soon, so that it can begin."""
        if not hasattr(os, "posix_fadvise"):
            return
        for file, ranges in self._ranges(names).items():
            try:
                handle = os.open(file, os.O_RDONLY)
            except OSError:
                continue  # the read itself will say what is wrong
            try:
                for start, stop in ranges:
                    os.posix_fadvise(handle, start, stop - start, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

    def _ranges(self, names: Iterable[str]) -> dict[Path, list[tuple[int, int]]]:
        found: dict[Path, list[tuple[int, int]]] = {}
        for header in sorted((self._headers[name] for name in names), key=lambda one: (one.file, one.start)):
            ranges = found.setdefault(header.file, [])
            if ranges and header.start - ranges[-1][1] < _NEAR:
                ranges[-1] = (ranges[-1][0], max(ranges[-1][1], header.stop))
            else:
                ranges.append((header.start, header.stop))
        return found

    def read(
        self, header: TensorHeader, first: int = 0, count: int | None = None, into: Tensor | None = None
    ) -> Tensor:
        """The tensor, or ``count`` of its rows (of the first dimension) from ``first`` on.

        Args:
            header: which one.
            first, count: the rows; all without ``count``.
            into: uint8 memory of at least that size to read into; new memory without it.

        Raises:
            IncompleteError: the file is gone, or has become shorter.
            CheckpointError: it cannot be read, or torch has no such dtype.

        """
        dtype = getattr(torch, _DTYPES.get(header.dtype, ""), None)
        if dtype is None:
            raise CheckpointError(
                f"{header.file} holds tensors of the dtype {header.dtype}, which torch does not know."
            )
        shape = header.shape if count is None else (count, *header.shape[1:])
        size = prod(shape) * dtype.itemsize
        start = header.start + (prod(header.shape[1:]) * dtype.itemsize * first if count is not None else 0)
        memory = torch.empty(size, dtype=torch.uint8) if into is None else into[:size]
        if size:
            self._fill(header.file, memory, start)
        self.bytes_read += size
        return memory.view(dtype).view(shape)

    def _fill(self, file: Path, memory: Tensor, start: int) -> None:
        view = memoryview(memory.numpy().data)
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(start)
                while view:
                    read = stream.readinto(view[:_PART])
                    if not read:
                        raise IncompleteError(
                            f"{file} has become shorter while it was read; copy or download it again."
                        )
                    view = view[read:]
        except FileNotFoundError as error:
            raise IncompleteError(f"{file} was there at the start and is gone now; get it again.") from error
        except OSError as error:
            raise CheckpointError(f"Cannot read {file}: {error.strerror or error}.") from error


class StoredTensor:
    """One tensor in a file, with as much of the interface of a safetensors slice as transformers uses."""

    def __init__(self, store: Store, header: TensorHeader) -> None:
        self._store = store
        self._header = header

    def get_dtype(self) -> str:
        """Safetensors' name of the dtype."""
        return self._header.dtype

    def get_shape(self) -> list[int]:
        """Shape in the file."""
        return list(self._header.shape)

    def __getitem__(self, index: Any) -> Tensor:
        whole = self._store.read(self._header)
        return whole if index is Ellipsis else whole[index]

    def rows(self, first: int, count: int, into: Tensor | None = None) -> Tensor:
        """``count`` entries of the first dimension."""
        return self._store.read(self._header, first, count, into)

    def whole(self, into: Tensor | None = None) -> Tensor:
        """All of it."""
        return self._store.read(self._header, into=into)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self._header.stop - self._header.start
