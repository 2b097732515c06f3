"""RecordStore: the raw triples on disk, one safetensors file a batch, and the gates' own tensors beside them."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from moeprobe.errors import OutputError
from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.routers.gate import Gate

FIELDS = ("logits", "experts", "weights", "token_ids", "positions", "documents")
"""What is kept of a record."""
GATE_FIELDS = ("weight", "logit_bias", "selection_bias", "table", "gamma", "expert_scale")
"""What is kept of a gate."""
GATES = "gates.safetensors"


class RecordStore:
    """Writes records as ``batch-00000.safetensors`` and so on; keys are ``<router path>/<field>``.

    The tensors that choose (gate matrix, biases, hash table) go into ``gates.safetensors`` under keys of the
    same form. Batches that an earlier run left in the folder are removed, but for those of an analysis that is
    continued.

    Args:
        folder: made if it does not exist.
        clean: whether to remove what is there; the one process that does so must do it before the others write.

    Raises:
        OutputError: the folder or a file cannot be written.

    """

    def __init__(self, folder: Path, clean: bool = True) -> None:
        self.folder = folder
        self._tensors: dict[str, Tensor] = {}
        self._gates: dict[str, Gate] = {}
        self._batches = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("batch-*.safetensors") if clean else ():
                old.unlink()
        except OSError as error:
            raise OutputError(f"Cannot make the folder {folder} for records: {error.strerror}.") from error

    def update(self, record: Record) -> None:
        """Keep one record until the batch is flushed."""
        self._gates.setdefault(record.router.path, record.gate)
        for field in FIELDS:
            tensor = getattr(record, field)
            if tensor is not None:
                # Copies, since routers that see the same rows share their labels.
                self._tensors[f"{record.router.path}/{field}"] = tensor.cpu().clone().contiguous()

    def flush(self, batch: int | None = None) -> None:
        """Write the records of one batch, and with the first one the gates; ``batch`` is its number, else the next."""
        number = self._batches if batch is None else batch
        self._write(f"batch-{number:05d}.safetensors", self._tensors)
        if not number:
            self._write(GATES, gate_tensors(self._gates))
        self._tensors = {}
        self._batches = number + 1

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        target = self.folder / name
        partial = target.with_suffix(".partial")
        try:
            save_file(tensors, partial)
            partial.replace(target)
        except (OSError, RuntimeError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {target}: {error}. Choose another folder, or make room.") from error


def gate_tensors(gates: Mapping[str, Gate]) -> dict[str, Tensor]:
    """The gates' tensors by ``<router path>/<field>``, on the CPU.

    Copies, since parameters may share memory; weights that accelerate has offloaded cannot be kept.
    """
    found = {f"{path}/{field}": getattr(gate, field) for path, gate in gates.items() for field in GATE_FIELDS}
    return {
        key: tensor.detach().cpu().clone().contiguous()
        for key, tensor in found.items()
        if tensor is not None and tensor.device.type != "meta"
    }


def saved_gate(router: Router, tensors: Mapping[str, Tensor]) -> Gate:
    """The gate of these facts, with its own of ``tensors`` (under the keys of ``gate_tensors``).

    Raises:
        ValueError: a tensor has another number of dimensions than those of gates have.

    """
    own = {field: tensors.get(f"{router.path}/{field}") for field in GATE_FIELDS}
    for field, tensor in own.items():
        if tensor is not None and tensor.ndim != (2 if field in ("weight", "table") else 1):
            raise ValueError(f"the {field} of {router.path} has {tensor.ndim} dimensions")
    return Gate(router=router, **own)
