"""RecordStore: the raw triples on disk, one safetensors file a batch."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from moeprobe.errors import OutputError
from moeprobe.records.record import Record


class RecordStore:
    """Writes records as ``batch-00000.safetensors`` and so on; keys are ``<router path>/<field>``.

    Args:
        folder: made if it does not exist.

    Raises:
        OutputError: the folder or a file cannot be written.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tensors: dict[str, Tensor] = {}
        self._batches = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make the folder {folder} for records: {error.strerror}.") from error

    def update(self, record: Record) -> None:
        """Keep one record until the batch is flushed."""
        for field in ("logits", "experts", "weights", "token_ids", "positions", "documents"):
            tensor = getattr(record, field)
            if tensor is not None:
                self._tensors[f"{record.router.path}/{field}"] = tensor.cpu().contiguous()

    def flush(self) -> None:
        """Write the records of one batch."""
        target = self._folder / f"batch-{self._batches:05d}.safetensors"
        partial = target.with_suffix(".partial")
        try:
            save_file(self._tensors, partial)
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {target}: {error}. Choose another folder, or make room.") from error
        self._tensors = {}
        self._batches += 1
