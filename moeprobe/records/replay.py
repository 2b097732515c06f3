"""Replay: records that came layer by layer are handed on batch by batch, as in an ordinary run."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from moeprobe.errors import OutputError, ResumeError
from moeprobe.records.record import Record
from moeprobe.records.store import FIELDS, RecordStore
from moeprobe.regular_file import refuse_irregular
from moeprobe.routers.gate import Gate

_SUFFIX, _PATH = ".record", "router"


class Replay:
    """Keeps records on the disk until all layers have run; use it as a context manager.

    Args:
        store: gets them in the end, in the order of an ordinary run.
        folder: where they wait until then, and stay if the run does not end; without it, a temporary folder beside what
            ``store`` writes.
        gates: routers of layers that an earlier run has finished; their records are in ``folder``.

    """

    def __init__(self, store: RecordStore, folder: Path | None = None, gates: Iterable[Gate] = ()) -> None:
        self._store = store
        self._temporary = None if folder else TemporaryDirectory(prefix=".waiting-", dir=store.folder)
        self._folder = folder or Path(self._temporary.name if self._temporary else "")
        self._gates = {gate.router.path: gate for gate in gates}
        self._seen: dict[int, list[str]] = {}
        if folder is not None:
            self._take_up(folder)

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def _take_up(self, folder: Path) -> None:
        """Count the records that wait already; those of an unfinished layer will be written again."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob(f"*{_SUFFIX}")):
                path = _router(file)
                if path in self._gates:
                    self._seen.setdefault(int(file.name.split("-")[0]), []).append(path)
                else:
                    file.unlink()
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ResumeError(f"The records in {folder} cannot be read; begin anew with --restart.") from error
        except OSError as error:
            raise OutputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error

    def update(self, batch: int, record: Record) -> None:
        """Keep one record of a batch."""
        path = record.router.path
        self._gates.setdefault(path, record.gate)
        self._seen.setdefault(batch, []).append(path)
        tensors = {name: getattr(record, name) for name in FIELDS}
        given = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        file = self._file(batch, len(self._seen[batch]) - 1)
        partial = file.with_suffix(".partial")
        try:
            save_file(given, partial, {_PATH: path})
            partial.replace(file)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OutputError(f"Cannot write {file}: {error}. Choose another folder, or make room.") from error

    def finish(self) -> None:
        """Hand everything on."""
        for batch in sorted(self._seen):
            for number, path in enumerate(self._seen[batch]):
                try:
                    tensors = load_file(self._file(batch, number))
                except (SafetensorError, OSError) as error:
                    raise ResumeError(
                        f"{self._file(batch, number)} cannot be read; begin anew with --restart."
                    ) from error
                gate = self._gates[path]
                optional = {name: tensors.get(name) for name in ("logits", "token_ids")}
                needed = {name: tensors[name] for name in FIELDS if name not in optional}
                self._store.update(Record(router=gate.router, gate=gate, **optional, **needed))
            self._store.flush()

    def _file(self, batch: int, number: int) -> Path:
        return self._folder / f"{batch:05d}-{number:05d}{_SUFFIX}"


def _router(file: Path) -> str:
    """Path of the router whose records a file holds."""
    refuse_irregular(file)
    with safe_open(file, "pt") as opened:
        path: str = opened.metadata()[_PATH]
    return path
