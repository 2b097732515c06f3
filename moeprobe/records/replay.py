"""Replay: records that came layer by layer are handed on batch by batch, as in an ordinary run."""

from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file

from moeprobe.errors import OutputError
from moeprobe.records.record import Record
from moeprobe.records.store import FIELDS, RecordStore
from moeprobe.routers.gate import Gate


class Replay:
    """Keeps records on the disk until all layers have run; use it as a context manager.

    Args:
        store: gets them in the end, in the order of an ordinary run; until then they wait beside what it writes.

    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._waiting = TemporaryDirectory(prefix=".waiting-", dir=store.folder)
        self._gates: dict[str, Gate] = {}
        self._seen: dict[int, list[str]] = {}

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.cleanup()

    def update(self, batch: int, record: Record) -> None:
        """Keep one record of a batch."""
        path = record.router.path
        self._gates.setdefault(path, record.gate)
        self._seen.setdefault(batch, []).append(path)
        tensors = {name: getattr(record, name) for name in FIELDS}
        given = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        file = self._file(batch, len(self._seen[batch]) - 1)
        try:
            save_file(given, file)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {file}: {error}. Choose another folder, or make room.") from error

    def finish(self) -> None:
        """Hand everything on."""
        for batch in sorted(self._seen):
            for number, path in enumerate(self._seen[batch]):
                tensors = load_file(self._file(batch, number))
                gate = self._gates[path]
                optional = {name: tensors.get(name) for name in ("logits", "token_ids")}
                needed = {name: tensors[name] for name in FIELDS if name not in optional}
                self._store.update(Record(router=gate.router, gate=gate, **optional, **needed))
            self._store.flush()

    def _file(self, batch: int, number: int) -> Path:
        return Path(self._waiting.name) / f"{batch:05d}-{number:05d}.safetensors"
