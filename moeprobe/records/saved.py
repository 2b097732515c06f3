"""SavedRecords: what a RecordStore wrote, read back record by record; and the result beside it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moeprobe.errors import ComparisonError
from moeprobe.findings.result import Result
from moeprobe.findings.router import Router
from moeprobe.records.record import Record
from moeprobe.records.store import FIELDS, GATES, saved_gate
from moeprobe.regular_file import refuse_irregular
from moeprobe.routers.gate import Gate

_KINDS = {
    "experts": torch.int64, "weights": torch.float32, "logits": torch.float32,
    "token_ids": torch.int64, "positions": torch.int64, "documents": torch.int64,
}  # fmt: skip
_OPTIONAL = {"logits", "token_ids"}


class SavedRecords:
    """The records in a folder; one router of one batch is read at a time.

    Args:
        folder: what ``analyze --save-records`` wrote.
        routers: facts of the routers, from the result beside the records.
        tokens: tokens that the result counted; all of them must be there.

    Raises:
        ComparisonError: there are no records, or they are damaged, or belong to another result.

    """

    def __init__(self, folder: Path, routers: Sequence[Router], tokens: int) -> None:
        self._folder = folder
        self._batches = sorted(folder.glob("batch-*.safetensors"))
        if not self._batches or not (folder / GATES).is_file():
            raise ComparisonError(
                f"{folder.parent} is a saved result without records, which a comparison needs; make it again with "
                "`moeprobe analyze --save-records`, or give the checkpoint itself."
            )
        tensors = _read(folder / GATES)
        self.gates = {router.path: _gate(router, tensors) for router in routers}
        found = sum(self._tokens(batch) for batch in range(len(self)))
        if found != tokens:
            raise ComparisonError(
                f"{folder} holds records of {found:,} tokens, and the result beside it has seen {tokens:,}; "
                "make both again with `moeprobe analyze --save-records`."
            )

    def __len__(self) -> int:
        return len(self._batches)

    def record(self, batch: int, path: str) -> Record | None:
        """What the router at ``path`` decided in one batch; None where it did not fire."""
        tensors = _read(self._batches[batch], path)
        if "experts" not in tensors:
            return None
        gate = self.gates[path]
        if (why := _misfit(gate.router, tensors)) is not None:
            raise ComparisonError(
                f"{self._batches[batch]} is damaged: {why} of {path}; make the records again with "
                "`moeprobe analyze --save-records`."
            )
        return Record(
            router=gate.router,
            logits=tensors.get("logits"),
            experts=tensors["experts"],
            weights=tensors["weights"],
            token_ids=tensors.get("token_ids"),
            positions=tensors["positions"],
            documents=tensors["documents"],
            gate=gate,
        )

    def _tokens(self, batch: int) -> int:
        records = (self.record(batch, path) for path in self.gates)
        return next((record.tokens for record in records if record is not None), 0)


def _misfit(router: Router, tensors: dict[str, Tensor]) -> str | None:
    """What does not belong to these tensors of a record, None where they fit each other and the router."""
    for field, kind in _KINDS.items():
        if field not in tensors:
            if field in _OPTIONAL:
                continue
            return f"there are no {field}"
        tensor = tensors[field]
        rows = tensors["experts"].shape[:1]
        axes = 2 if field in ("experts", "weights", "logits") else 1
        if tensor.ndim != axes or tensor.shape[:1] != rows or tensor.dtype != kind:
            return f"the {field} have another shape or dtype than records have"
    experts = tensors["experts"]
    if tensors["weights"].shape != experts.shape:
        return "experts and weights have different shapes"
    if experts.numel() and (int(experts.max()) >= router.score_columns or int(experts.min()) < -1):
        return "the experts are not those"
    return None


def _gate(router: Router, tensors: dict[str, Tensor]) -> Gate:
    try:
        gate = saved_gate(router, tensors)
    except ValueError as error:
        raise ComparisonError(
            f"The saved gates are damaged ({error}); make them again with `moeprobe analyze --save-records`."
        ) from error
    if gate.selection_bias is None and router.selection_bias is not None:
        return replace(gate, selection_bias=torch.tensor(router.selection_bias.values))
    return gate


def _read(file: Path, router: str | None = None) -> dict[str, Tensor]:
    """All tensors of a file under their keys, or those of one router under the names of their fields."""
    try:
        refuse_irregular(file)
        with safe_open(file, "pt") as opened:
            if router is None:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it is no dict
            keys = set(opened.keys())
            fields = [field for field in FIELDS if f"{router}/{field}" in keys]
            return {field: opened.get_tensor(f"{router}/{field}") for field in fields}
    except (SafetensorError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ComparisonError(
            f"{file} cannot be read ({why}); make the records again with `moeprobe analyze --save-records`."
        ) from error


def load_saved(source: str | Path) -> Result | None:
    """The saved result in a folder, or in a file ``result.json``; None where ``source`` is a checkpoint."""
    path = Path(os.path.expanduser(source))
    if path.suffix == ".json" and path.is_file():
        return Result.load(path)
    if (path / "result.json").is_file() and not (path / "config.json").exists():
        return Result.load(path / "result.json")
    return None
