"""Snapshot: tensors by name and words by name, as one run of bytes (a safetensors file with metadata).

It is how states leave a process, to the disk or to another process. Floats keep every bit, nothing is pickled, and one
file is replaced by one rename, so that tensors and words never stem from different moments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moeprobe.errors import OutputError, ResumeError
from moeprobe.json_source import parse_json
from moeprobe.regular_file import read_regular

_MOST = 1 << 40  # hidden states of a batch may be large


@dataclass(frozen=True, eq=False)
class Snapshot:
    """``tensors`` on the CPU, of any shape and dtype; ``words`` are text, mostly JSON."""

    tensors: Mapping[str, Tensor]
    words: Mapping[str, str]

    def dump(self) -> bytes:
        """The snapshot as bytes."""
        made: bytes = save(dict(self.tensors), dict(self.words))
        return made

    @classmethod
    def parse(cls, data: bytes) -> "Snapshot":
        """The snapshot in ``data``.

        Raises:
            ValueError: the bytes are damaged.

        """
        try:
            tensors = load(data)
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            words = header.get("__metadata__", {})
        except (SafetensorError, ValueError, AttributeError) as error:
            raise ValueError(f"no snapshot: {error}") from error
        return cls(tensors, words)

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under ``name/``, without it."""
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all.

    Raises:
        OutputError: it cannot be written.

    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"Cannot write {path} ({error.strerror or error}), which keeps the progress of this analysis; make room, "
            "then give the same command again: what was kept before still counts."
        ) from error


def read_snapshot(path: Path) -> Snapshot | None:
    """The snapshot in a file, None where there is none.

    Raises:
        ResumeError: it is damaged, or cannot be read.

    """
    try:
        return Snapshot.parse(read_regular(path, most=_MOST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResumeError(f"{path} cannot be read; begin anew with --restart.") from error
